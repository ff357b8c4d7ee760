"""The archive of a real run: what is in it, what is not, and that it is the same wherever it is made."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import warnings
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from fixtures_run import CASES, DATASET, NAME, TRAINER_FOLDER

from registry import archive, manifest
from registry.errors import ConflictError, IntegrityError, MregError, NotFoundError
from registry.files import read_json, write_json
from registry.model_toml import find_repo
from registry.runs import FINAL, read_run
from registry.unpack import unpack_safely, unpack_together

TAG = "r20261121"
ZIP = f"{NAME}-{TAG}.zip"
TRAINER_CODE = """\
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer


class nnUNetTrainerShort(nnUNetTrainer):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.num_epochs = 5
"""


@pytest.fixture
def run(repo_with_run: Path) -> Path:
    return next((repo_with_run / "runs").iterdir())


def build(run: Path, out: Path | None = None, tag: str = TAG, **options: object) -> archive.Package:
    repo = find_repo(run)
    return archive.build(read_run(run), repo.name, tag, out or repo.dist / tag, repo=repo, **options)


def members(package: archive.Package) -> dict[str, bytes]:
    with zipfile.ZipFile(package.archive) as opened:
        assert opened.testzip() is None
        return {name: opened.read(name) for name in opened.namelist()}


def edit(path: Path, **changes: object) -> None:
    document = read_json(path)
    for key, value in changes.items():
        if value is None:
            document.pop(key, None)
        else:
            document[key] = value
    write_json(path, document)


def unpacked(package: archive.Package, folder: Path) -> Path:
    with zipfile.ZipFile(package.archive) as opened:
        opened.extractall(folder)
    return folder


def second_fold(run: Path, number: int | str = 1) -> Path:
    return Path(shutil.copytree(run / "fold_0", run / f"fold_{number}"))


# ---- what is in it


def test_the_trainer_folder_lies_at_the_root_with_just_these_files(run: Path) -> None:
    (run / "fold_0" / "checkpoint_latest.pth").write_bytes(b"x")
    (run / "fold_0" / "checkpoint_best.pth").write_bytes(b"x")
    (run / "fold_0" / "metrics.jsonl").write_text("{}\n")
    log = next((run / "fold_0").glob("training_log_*.txt")).name
    package = build(run)
    assert package.archive.name == ZIP
    assert list(members(package)) == sorted(
        f"{TRAINER_FOLDER}/{name}"
        for name in ("dataset.json", "dataset_fingerprint.json", "plans.json", f"fold_0/{FINAL}", "fold_0/debug.json",
                     "fold_0/progress.png", f"fold_0/{log}")
    )  # fmt: skip
    with zipfile.ZipFile(package.archive) as opened:
        for info in opened.infolist():
            assert info.compress_type == zipfile.ZIP_STORED
            assert info.date_time == (1980, 1, 1, 0, 0, 0)
            assert (info.create_system, info.external_attr >> 16) == (3, 0o100644)


def test_layout_dataset_wraps_it_for_slicer(run: Path) -> None:
    package = build(run, layout="dataset")
    assert {name.split("/")[0] for name in members(package)} == {DATASET}
    assert f"{DATASET}/{TRAINER_FOLDER}/plans.json" in members(package)


def test_all_finished_folds_come_in_one_archive(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    second_fold(run)
    (second_fold(run, 2) / FINAL).unlink()
    package = build(run)
    names = members(package)
    assert f"{TRAINER_FOLDER}/fold_1/{FINAL}" in names
    assert not any("fold_2" in name for name in names)
    assert "fold_2 is not finished" in capsys.readouterr().err
    assert manifest.read(package.manifest).models[0].folds == (0, 1)


def test_a_missing_figure_or_log_stops_nothing(run: Path) -> None:
    for name in ("progress.png", "debug.json", next((run / "fold_0").glob("training_log_*")).name):
        (run / "fold_0" / name).unlink()
    (run / "dataset_fingerprint.json").unlink()
    assert len(members(build(run))) == 3


def test_plans_and_the_contract_are_kept_as_they_are(run: Path) -> None:
    edit(run / "dataset.json", labels={"background": 0, "lesion": 2, "sc": [1, 2]}, regions_class_order=[2, 1])
    found = members(build(run))
    dataset = json.loads(found[f"{TRAINER_FOLDER}/dataset.json"])
    assert list(dataset["labels"]) == ["background", "lesion", "sc"]
    assert dataset == read_json(run / "dataset.json")
    assert json.loads(found[f"{TRAINER_FOLDER}/plans.json"]) == read_json(run / "plans.json")


def test_stock_nnunet_loads_the_archive_and_predicts_the_same(run: Path, tmp_path: Path) -> None:
    logits = []
    for folder in (run, unpacked(build(run), tmp_path / "model") / TRAINER_FOLDER):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

            predictor = nnUNetPredictor(use_mirroring=True, device=torch.device("cpu"), allow_tqdm=False)
            predictor.initialize_from_trained_model_folder(str(folder), (0,))
            image = np.random.default_rng(0).normal(size=(1, 16, 24, 24)).astype(np.float32)
            predictor.network.load_state_dict(predictor.list_of_parameters[0])
            logits.append(predictor.predict_sliding_window_return_logits(torch.from_numpy(image)))
    assert torch.equal(*logits)


def test_half_and_optimizer_are_said_in_the_manifest(run: Path) -> None:
    full = manifest.read(build(run).manifest).models[0]
    half = manifest.read(build(run, variant="half", half=True).manifest).model(f"{NAME}-half-{TAG}.zip")
    kept = manifest.read(build(run, variant="kept", keep_optimizer=True).manifest).model(f"{NAME}-kept-{TAG}.zip")
    assert (full.weights.dtype, full.weights.optimizer) == ("float32", False)
    assert (half.weights.dtype, half.weights.parameters) == ("float16", full.weights.parameters)
    assert kept.weights.optimizer


# ---- what is not


def test_nothing_in_the_archive_tells_paths_hosts_users_or_cases(run: Path, tmp_path: Path) -> None:
    training = [{"image": f"/home/jdoe/data/{case}.nii.gz"} for case in CASES]
    edit(run / "dataset.json", training=training, test=["./imagesTs/sub-unf01.nii.gz"], groups={"a": CASES[:2]},
         reference="see /mnt/duke/jdoe")  # fmt: skip
    edit(run / "plans.json", trained_in="/home/jdoe/results")
    edit(run / "fold_0" / "debug.json", hostname="bireli.polymtl.ca", loss="Loss(/home/jdoe/x)")
    log = next((run / "fold_0").glob("training_log_*.txt"))
    log.write_text(log.read_text() + f"on bireli as jdoe: {CASES[0]}.nii.gz, C:\\Users\\jdoe\\x\n")
    checkpoint = torch.load(run / "fold_0" / FINAL, weights_only=False)
    assert CASES[0] in str(checkpoint["init_args"])
    (run / "trainer_class.py").write_text("class nnUNetTrainer:\n    pass\n")
    package = build(run)
    for data in (package.archive.read_bytes(), package.manifest.read_bytes()):
        for leak in ("jdoe", "bireli", "duke", str(tmp_path), "pytest", *CASES, "sub-unf01", "sub-amu01"):
            assert leak.encode() not in data, leak


def test_trainer_code_with_a_path_is_refused_with_its_line(run: Path) -> None:
    (run / "trainer_class.py").write_text(TRAINER_CODE.replace("Short", "") + "# from /home/jdoe/code\n")
    with pytest.raises(MregError, match=r"trainer_class\.py: line 8: # from"):
        build(run)


# ---- custom trainers


def test_a_custom_trainer_is_found_by_both_nnunets(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "nnUNetTrainerShort"
    checkpoint = torch.load(run / "fold_0" / FINAL, weights_only=False)
    torch.save(checkpoint | {"trainer_name": name}, run / "fold_0" / FINAL)
    edit(run / "config.json", trainer=name)
    (run / "trainer_class.py").write_text(TRAINER_CODE)
    folder = unpacked(build(run), tmp_path / "model") / f"{name}__nnUNetPlans__3d_fullres"
    code = (folder / "trainer_class.py").read_text()
    assert code.startswith(TRAINER_CODE)

    names: dict = {}
    exec(code, names)  # noqa: S102 - as SCT does
    assert names["get_trainer_class"]().__name__ == name
    monkeypatch.setenv("nnUNet_extTrainer", str(folder))
    from nnunetv2.utilities.find_class_by_name import recursive_find_python_class

    assert recursive_find_python_class(str(folder), name, None).__name__ == name


def test_trainer_code_without_the_trainer_is_refused(run: Path) -> None:
    (run / "trainer_class.py").write_text(TRAINER_CODE)
    with pytest.raises(MregError, match="no class nnUNetTrainer: it defines nnUNetTrainerShort"):
        build(run)


# ---- the same bytes


def test_the_same_run_gives_the_same_bytes_elsewhere(run: Path, tmp_path: Path) -> None:
    digests = set()
    for folder, umask, language, zone in (("one", "022", "C", "UTC"), ("two deep/er", "077", "C.UTF-8", "Asia/Tokyo")):
        repo = tmp_path / folder / NAME
        shutil.copytree(run.parents[1], repo, copy_function=shutil.copy)
        for path in repo.rglob("*"):
            os.utime(path, (1e9 + len(folder), 1e9 + len(folder)))
        command = f"umask {umask}; exec {sys.executable} -m registry package --tag {TAG} --json"
        environment = {**os.environ, "LC_ALL": language, "TZ": zone, "PYTHONHASHSEED": str(len(folder))}
        environment["PYTHONPATH"] = str(Path(__file__).parents[1])
        done = subprocess.run(["sh", "-c", command], cwd=repo, env=environment, capture_output=True, check=True)
        answer = json.loads(done.stdout)
        assert answer["created"]
        made = Path(answer["archive"])
        assert made.stat().st_mode & 0o777 == 0o666 & ~int(umask, 8)
        digests.add((hashlib.sha256(made.read_bytes()).hexdigest(), Path(answer["manifest"]).read_bytes()))
    assert len(digests) == 1


def test_packaging_again_changes_nothing(run: Path) -> None:
    first = build(run)
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in first.archive.parent.iterdir()}
    second = build(run)
    assert first.created
    assert not second.created
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in first.archive.parent.iterdir()} == before
    assert sorted(path.name for path in before) == sorted([ZIP, manifest.MANIFEST_NAME])


def test_another_content_under_the_same_tag_is_a_conflict(run: Path) -> None:
    first = build(run)
    before = first.archive.read_bytes()
    with pytest.raises(ConflictError, match="made from something else") as error:
        build(run, half=True)
    assert "--tag" in error.value.hint
    assert first.archive.read_bytes() == before
    assert manifest.read(first.manifest).models[0].weights.dtype == "float32"
    assert build(run, half=True, tag="r20261122").created


def test_a_lost_manifest_is_written_again(run: Path) -> None:
    first = build(run)
    text = first.manifest.read_text()
    first.manifest.unlink()
    assert not build(run).created
    assert first.manifest.read_text() == text


# ---- the manifest


def test_the_manifest_says_what_lies_in_the_archive(run: Path) -> None:
    package = build(run)
    found = manifest.read(package.manifest)
    data = package.archive.read_bytes()
    assert [(a.name, a.size, a.sha256) for a in found.assets] == [(ZIP, len(data), hashlib.sha256(data).hexdigest())]
    assert (package.size, package.sha256) == (found.assets[0].size, found.assets[0].sha256)
    model = found.models[0]
    assert {m.path: (m.size, m.sha256) for m in model.members} == {
        name: (len(content), hashlib.sha256(content).hexdigest()) for name, content in members(package).items()
    }
    assert found.name_fields["anatomy"] == ("sc",)
    assert found.name_fields["animal"] == ("human",)  # a default, written out
    assert (found.name, found.tag, found.licence) == (NAME, TAG, "MIT")
    assert (model.orientation, model.labels, model.sct_suffixes) == ("RPI", {"background": 0, "sc": 1}, ("_seg",))
    assert model.data.source["commit"] == read_json(run / "dataset.json")["source"]["commit"]
    assert model.metrics.mean == read_json(run / "evaluation.json")["mean"]
    assert model.versions["torch"] == "2.13.0"
    assert model.source is None


def test_the_manifest_names_the_commit_and_whether_files_differ(run: Path) -> None:
    repo = run.parents[1]
    identity = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    (repo / ".gitignore").write_text("dist/\nruns/\n")
    for arguments in (["init", "-q"], ["add", "."], [*identity, "commit", "-q", "-m", "first"]):
        subprocess.run(["git", *arguments], cwd=repo, check=True)
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=repo, capture_output=True, text=True, check=True)
    source = manifest.read(build(run).manifest).models[0].source
    assert (source.commit, source.dirty) == (head.stdout.strip(), False)
    (repo / "model.toml").write_text((repo / "model.toml").read_text() + "\n")
    assert manifest.read(build(run).manifest).models[0].source.dirty


def test_figures_of_other_weights_are_left_out_with_a_warning(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert manifest.read(build(run, variant="h", half=True).manifest).models[0].metrics is None
    assert "mreg evaluate --half" in capsys.readouterr().err
    edit(run / "evaluation.json", half=True)
    assert manifest.read(build(run, tag="r20261122", half=True).manifest).models[0].metrics.cases == 1
    (run / "evaluation.json").unlink()
    capsys.readouterr()
    assert manifest.read(build(run, tag="r20261123").manifest).models[0].metrics is None
    assert "was not evaluated" in capsys.readouterr().err


def test_variants_share_one_manifest(run: Path) -> None:
    build(run, variant="axial")
    package = build(run, variant="sagittal", layout="dataset")
    found = manifest.read(package.manifest)
    assert found.archives == [f"{NAME}-axial-{TAG}.zip", f"{NAME}-sagittal-{TAG}.zip"]
    assert [model.layout for model in found.models] == ["root", "dataset"]
    (package.archive.parent / f"{NAME}-axial-{TAG}.zip").unlink()
    assert manifest.read(build(run, variant="sagittal", layout="dataset").manifest).archives == [package.archive.name]


def test_the_folder_of_another_release_is_refused(run: Path) -> None:
    package = build(run)
    with pytest.raises(ConflictError, match="is the manifest of model_seg_sc_t2 r20261121"):
        build(run, out=package.archive.parent, tag="r20261122")
    assert not (package.archive.parent / f"{NAME}-r20261122.zip").exists()


def test_the_crop_lies_beside_the_trainer_folder(run: Path) -> None:
    repo = run.parents[1]
    with (repo / "model.toml").open("a") as file:
        file.write("\n[sct]\ncropped_image = true\n")
    with pytest.raises(NotFoundError, match=r"crop_metadata\.json"):
        build(run)
    margins = dict.fromkeys([f"pad_{side}" for side in ("superior", "inferior", "left", "right", "anterior")], 10)
    write_json(repo / "crop_metadata.json", margins)
    with pytest.raises(MregError, match="pad_posterior"):
        build(run)
    write_json(repo / "crop_metadata.json", {**margins, "pad_posterior": 5.5})
    assert "crop_metadata.json" in members(build(run))
    assert f"{DATASET}/crop_metadata.json" in members(build(run, variant="slicer", layout="dataset"))


# ---- what cannot be released


def break_orientation(run: Path) -> None:
    edit(run / "dataset.json", image_orientation=None)


def break_code(run: Path) -> None:
    edit(run / "dataset.json", image_orientation="RPIS")


def lose_checkpoint(run: Path) -> None:
    (run / "fold_0" / FINAL).unlink()


def want_another_fold(run: Path) -> None:
    edit(run / "config.json", settings={"folds": [0, 1]})


def cut_checkpoint(run: Path) -> None:
    with (run / "fold_0" / FINAL).open("r+b") as file:
        file.truncate(20_000)


def add_all(run: Path) -> None:
    second_fold(run, "all")


def change_trainer(run: Path) -> None:
    edit(run / "config.json", trainer="nnUNetTrainerOther")


def change_configuration(run: Path) -> None:
    edit(run / "config.json", configuration="2d")


def break_evaluation(run: Path) -> None:
    edit(run / "evaluation.json", mean=3)


def break_figure(run: Path) -> None:
    (run / "fold_0" / "progress.png").write_bytes(b"GIF")


@pytest.mark.parametrize(
    ("harm", "message", "hint"),
    [
        (break_orientation, r"dataset\.json: no image_orientation", "SCT's letters"),
        (break_code, "'RPIS' is no orientation", "SCT's letters"),
        (lose_checkpoint, f"fold_0 has no {FINAL} yet", "mreg train"),
        (want_another_fold, f"fold_1 has no {FINAL} yet", "mreg train"),
        (cut_checkpoint, rf"fold_0/{FINAL}: damaged", "again"),
        (add_all, "fold_all beside other folds", "keep either"),
        (change_trainer, "trainer is nnUNetTrainer, and the run's is nnUNetTrainerOther", ""),
        (change_configuration, "configuration is 3d_fullres, and the run's is 2d", ""),
        (break_evaluation, r"evaluation\.json", "evaluate again"),
        (break_figure, r"progress\.png: not a PNG", "remove it"),
    ],
)
def test_what_cannot_be_released_is_one_error_and_leaves_nothing(run: Path, harm, message: str, hint: str) -> None:
    harm(run)
    with pytest.raises(MregError, match=message) as error:
        build(run)
    assert hint in error.value.hint
    dist = find_repo(run).dist
    assert not dist.exists() or [path for path in dist.rglob("*") if path.is_file()] == []
    assert not list(dist.rglob(".package*"))


def test_an_archive_too_large_for_github_is_refused(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "LARGEST", 100_000)
    with pytest.raises(MregError, match="GitHub takes") as error:
        build(run)
    assert "--half" in error.value.hint
    assert not list(find_repo(run).dist.rglob("*.zip"))


def test_the_limit_is_githubs() -> None:
    assert archive.LARGEST == 2 * 1024**3 - 1


@pytest.mark.parametrize("options", [{"layout": "flat"}, {"variant": "a-b"}, {"tag": "../x"}])
def test_unusable_options_are_refused(run: Path, options: dict) -> None:
    with pytest.raises(MregError):
        build(run, **options)


def test_layout_dataset_needs_a_dataset_name(run: Path) -> None:
    edit(run / "config.json", dataset={**read_json(run / "config.json")["dataset"], "name": "Data"})
    with pytest.raises(MregError, match="is not named DatasetNNN_Name"):
        build(run, layout="dataset")


def test_a_config_with_other_content_is_one_error(run: Path) -> None:
    edit(run / "environment.json", packages={"torch": 2})
    with pytest.raises(IntegrityError, match="versions"):
        build(run)


# ---- the command


def test_package_prints_the_archive_of_the_newest_run(
    mreg, repo_with_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repo_with_run / "runs")
    result = mreg("package", "--no-reference")
    assert result.exit_code == 0, result.stderr
    found = Path(result.stdout.strip())
    assert found.parent.parent == repo_with_run / "dist"
    assert found.name == f"{NAME}-{found.parent.name}.zip"
    assert found.is_file()
    assert len(result.stdout.splitlines()) == 1


def test_package_answers_json_and_takes_flags(mreg, run: Path, tmp_path: Path) -> None:
    result = mreg(
        "package", run, "--tag", TAG, "-o", tmp_path / "out", "--variant", "x", "--half", "--no-reference", "--json"
    )
    answer = json.loads(result.stdout)
    assert Path(answer["archive"]) == tmp_path / "out" / f"{NAME}-x-{TAG}.zip"
    assert answer["size"] == Path(answer["archive"]).stat().st_size
    assert answer["created"] is True


def test_package_follows_model_toml(mreg, repo_with_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (repo_with_run / "model.toml").open("a") as file:
        file.write('\n[release]\ntags = "semver"\nlayout = "dataset"\nvariant = "v"\n')
    monkeypatch.chdir(repo_with_run)
    assert "--tag v1.0.0" in mreg("package").stderr
    result = mreg("package", "--tag", "v1.2.3", "--no-reference")
    assert Path(result.stdout.strip()) == repo_with_run / "dist" / "v1.2.3" / f"{NAME}-v-v1.2.3.zip"
    with zipfile.ZipFile(result.stdout.strip()) as opened:
        assert all(name.startswith(DATASET) for name in opened.namelist())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--tag", "v1"], "v1"), (["--tag", "r20261331"], "r20261331"), (["nowhere"], "nowhere: no such run")],
)
def test_package_refuses(mreg, repo_with_run: Path, monkeypatch: pytest.MonkeyPatch, arguments, message: str) -> None:
    monkeypatch.chdir(repo_with_run)
    result = mreg("package", *arguments)
    assert result.exit_code == 1
    assert message in result.stderr
    assert result.stdout == ""
    assert not (repo_with_run / "dist").exists()


def test_a_run_without_a_repo_needs_a_folder(mreg, run: Path, tmp_path: Path) -> None:
    alone = shutil.copytree(run, tmp_path / "alone")
    assert "name one: -o DIR" in mreg("package", alone).stderr
    result = mreg("package", alone, "--tag", TAG, "-o", tmp_path / "out", "--no-reference")
    assert Path(result.stdout.strip()).name == ZIP


# ---- a fold an archive


def test_each_fold_can_have_an_archive_of_its_own(run: Path, tmp_path: Path) -> None:
    second_fold(run)
    whole = build(run)
    package = build(run, per_fold=True)
    assert [made.path.name for made in package.archives] == [f"{NAME}-fold{fold}-{TAG}.zip" for fold in (0, 1)]
    found = manifest.read(package.manifest)
    assert [(model.variant, model.folds) for model in found.models] == [("fold0", (0,)), ("fold1", (1,))]
    assert found.parts == found.models
    assert found.archives == [made.path.name for made in package.archives]  # the whole one makes room
    together = unpack_together([made.path for made in package.archives], tmp_path / "together")
    assert files_of(together) == files_of(unpack_safely(whole.archive, tmp_path / "whole"))
    assert not build(run, per_fold=True).created
    again = manifest.read(build(run).manifest)
    assert (again.archives, again.parts) == ([ZIP], ())


def test_archives_of_other_folds_or_models_are_no_parts(run: Path, tmp_path: Path) -> None:
    second_fold(run)
    found = manifest.read(build(run, per_fold=True, variant="axial").manifest)
    assert [model.variant for model in found.models] == ["axial.fold0", "axial.fold1"]
    assert found.parts
    other = found.models[1].model_copy(update={"trainer_folder": "nnUNetTrainer__nnUNetPlans__2d"})
    assert found.model_copy(update={"models": (found.models[0], other)}).parts == ()
    assert found.model_copy(update={"models": (found.models[0], found.models[0])}).parts == ()
    assert found.model_copy(update={"models": found.models[:1]}).parts == ()


def test_folds_of_two_models_are_not_unpacked_together(run: Path, tmp_path: Path) -> None:
    second_fold(run)
    first = build(run, per_fold=True).archives[0].path
    edit(run / "plans.json", original_median_spacing_after_transp=[2.0, 1.0, 1.0])
    other = build(run, tmp_path / "other", per_fold=True).archives[1].path
    with pytest.raises(IntegrityError, match=r"its \S+plans\.json is not that of"):
        unpack_together([first, other], tmp_path / "together")
    assert not (tmp_path / "together").exists()


def test_where_all_folds_are_too_large_an_archive_of_each_is_offered_and_fits(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    second_fold(run)
    size = build(run, per_fold=True).archives[0].size
    shutil.rmtree(find_repo(run).dist)
    monkeypatch.setattr(archive, "LARGEST", size)
    with pytest.raises(MregError, match="GitHub takes") as error:
        build(run)
    assert "--per-fold" in error.value.hint
    assert not list(find_repo(run).dist.rglob("*.zip"))
    assert len(build(run, per_fold=True).archives) == 2
    monkeypatch.setattr(archive, "LARGEST", 100_000)
    with pytest.raises(MregError, match="-fold0-") as error:
        build(run, tag="r20261122", per_fold=True)
    assert "--per-fold" not in error.value.hint


def test_what_a_killed_package_left_is_removed_by_the_next(run: Path) -> None:
    left = find_repo(run).dist / TAG / ".package-x1y2" / ZIP
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half")
    assert build(run).created
    assert sorted(path.name for path in left.parents[1].iterdir()) == [ZIP, manifest.MANIFEST_NAME]


def test_two_that_package_at_once_make_one_archive(run: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        made = list(pool.map(lambda _: build(run), range(2)))
    assert sorted(one.created for one in made) == [False, True]
    assert made[0].sha256 == made[1].sha256
    assert manifest.read(made[0].manifest).archives == [ZIP]


def test_package_makes_a_fold_an_archive_as_model_toml_or_the_flag_says(
    mreg, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    second_fold(run)
    monkeypatch.chdir(find_repo(run).root)
    names = [f"{NAME}-fold{fold}-{TAG}.zip" for fold in (0, 1)]
    said = mreg("package", "--per-fold", "--tag", TAG, "--no-reference")
    assert [Path(line).name for line in said.stdout.split()] == names
    with Path("model.toml").open("a") as file:
        file.write("\n[release]\nper_fold = true\n")
    said = json.loads(mreg("package", "--tag", TAG, "--no-reference", "--json").stdout)
    assert [Path(entry["archive"]).name for entry in said["archives"]] == names
    said = json.loads(mreg("package", "--one-archive", "--tag", TAG, "--no-reference", "--json").stdout)
    assert Path(said["archive"]).name == ZIP


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
