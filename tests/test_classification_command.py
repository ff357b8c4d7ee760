"""A classifier from the command line: trained, validated again, asked and judged, with the numbers of the library."""

import json
import shutil

import pytest
import SimpleITK
from command import run_mreg
from fixtures_classification import NAME, edit, write_task

MODEL = "model_classif_sc_t1"
TAG = "r20260131"
MODEL_TOML = f"""\
[model]
name = "{MODEL}"
description = "Contrast of a piece of brain"
licence = "MIT"

[data]
dataset = "data/raw/{NAME}"

[train]
recipe = "classification"
folds = [0, 1]
num_folds = 2
epochs = 2
iterations = 2
batch_size = 4
width = 0.125
max_voxels = 4096
checkpoint_minutes = 0
device = "cpu"
"""


@pytest.fixture(scope="module")
def repo(tmp_path_factory):
    """Return a repo, which a registry beside it has too, in which two folds were trained."""
    folder = tmp_path_factory.mktemp("classifier")
    root = folder / MODEL
    new = ("new", MODEL, "--recipe", "classification", "--dir", folder, "--registry", f"dir:{folder / 'registry'}")
    done = run_mreg(*new, cwd=folder)
    assert done.returncode == 0, done.stderr
    task = write_task(root / "data" / "raw")
    for side in ("images", "labels"):
        shutil.copytree(task / f"{side}Tr", task / f"{side}Ts")
    edit(task, test=json.loads((task / "dataset.json").read_text())["training"][:6], numTest=6)
    (root / "model.toml").write_text(MODEL_TOML)
    done = run_mreg("train", "--json", cwd=root)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["trained"] == [0, 1]
    assert answer["complete"]
    return root


@pytest.fixture
def run(repo):
    return next((repo / "runs").iterdir())


def files(repo, number=0):
    case = f"brain_piece_{number:04d}"
    task = repo / "data" / "raw" / NAME
    return task / "imagesTr" / f"{case}_0000.nii.gz", task / "labelsTr" / f"{case}.nii.gz"


def test_the_same_command_again_finds_everything_done(repo, run):
    assert run.name.startswith("classification-")
    assert json.loads((run / "dataset.json").read_text())["image_orientation"] == "LPI"
    assert "training" not in json.loads((run / "dataset.json").read_text())
    before = {path: path.read_bytes() for path in run.rglob("validation.json")}
    done = run_mreg("train", "--json", "--validation-only", cwd=repo)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["done_before"] == [0, 1]
    assert {path: path.read_bytes() for path in run.rglob("validation.json")} == before


def test_the_command_and_python_give_the_same_numbers_for_every_format(repo, run, tmp_path):
    from trainers.classification.predict import predict

    image, mask = files(repo)
    meta = tmp_path / "scan.mha"
    SimpleITK.WriteImage(SimpleITK.ReadImage(str(image)), str(meta))
    (tmp_path / "masks").mkdir()
    shutil.copy(mask, tmp_path / "masks")
    shutil.copy(mask, tmp_path / "masks" / "scan.nii.gz")
    done = run_mreg("predict", run, image, meta, "-o", "out", "--mask", "masks", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    answer = predict(str(run), [str(meta)], str(mask))
    assert done.stdout.split() == ["out/brain_piece_0000.json", "out/scan.json"]
    for path in done.stdout.split():
        found = json.loads((tmp_path / path).read_text())
        assert found["Contrast"]["probabilities"]["gray matter"] == pytest.approx(answer[0], abs=1e-6)
        assert list(found["Height"]["probabilities"].values()) == pytest.approx(answer[1], abs=1e-6)


def test_masks_must_be_there_and_one_for_each_image(repo, run, tmp_path):
    images = [files(repo, number)[0] for number in range(2)]
    for flags, said in (
        ((), "no mask, and the model was trained with a region of interest"),
        (("--mask", files(repo)[1]), "one mask for several images"),
        (("--mask", tmp_path), "no mask of case brain_piece_0000"),
    ):
        done = run_mreg("predict", run, *images, "-o", tmp_path / "no", *flags, cwd=tmp_path)
        assert done.returncode == 1
        assert said in done.stderr


def test_it_is_judged_on_test_cases_and_on_those_held_out(repo, run):
    task = repo / "data" / "raw" / NAME
    done = run_mreg("evaluate", run, task, "--json", "--device", "cpu", cwd=repo)
    assert done.returncode == 0, done.stderr
    evaluation = json.loads(done.stdout)
    assert (evaluation["split"], evaluation["folds"], len(evaluation["cases"])) == ("test", [0, 1], 6)
    assert json.loads((run / "evaluation.json").read_text()) == evaluation
    assert "| Contrast |" in (repo / "README.md").read_text()
    done = run_mreg("evaluate", run, task, "--split", "val", cwd=repo)
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    assert rows[0][:3] == ["label", "class", "AUC"]
    assert [row[0] for row in rows[1:]] == ["Contrast"] * 2 + ["Height"] * 4


def test_it_is_packed_checked_and_asked_as_an_archive(repo, run, tmp_path):
    from registry.checks import check
    from registry.packaging import package
    from registry.unpack import model_folder, unpack_safely
    from trainers.classification.predict import predict

    assert [finding for finding in check(run).findings if finding.level == "error"] == []
    made = package(run, tag="r20260131", out=tmp_path / "dist")
    again = package(run, tag="r20260131", out=tmp_path / "dist")
    assert (made.created, again.created, made.sha256) == (True, False, again.sha256)
    assert [finding for finding in check(made.archive).findings if finding.level == "error"] == []
    manifest = json.loads(made.manifest.read_text())["models"][0]
    assert manifest["labels"] == {"Contrast": [0, 1], "Height": [0, 1, 2]}
    assert manifest["recipe"] == "classification"
    members = {member["path"].partition("/")[2] for member in manifest["members"]}
    assert members == {"dataset.json", "plans.json", "roc.png", "reliability.png", "confusion.png"} | {
        f"fold_{fold}/{name}" for fold in range(2) for name in ("checkpoint_final.pth", "progress.png")
    }
    unpack_safely(made.archive, tmp_path / "unpacked")
    folder = model_folder(tmp_path / "unpacked")
    image, mask = files(repo)
    assert predict(str(folder), [str(image)], str(mask)) == predict(str(run), [str(image)], str(mask))
    assert "brain_piece" not in "".join(path.read_text() for path in folder.glob("*.json"))


def test_data_with_errors_are_not_trained_on(repo, tmp_path):
    copied = shutil.copytree(repo, tmp_path / MODEL, ignore=shutil.ignore_patterns("runs", "preprocessed"))
    edit(copied / "data" / "raw" / NAME, numTraining=3)
    done = run_mreg("train", cwd=copied)
    assert done.returncode == 1
    assert "numTraining = 3, but training lists 15 cases" in done.stderr
    assert not (copied / "runs").exists()


@pytest.fixture
def here(monkeypatch):
    """Ask the model in this process, which has torch already: a process of its own takes seconds to start."""
    import torch

    from registry import workers
    from trainers.classification import predict

    threads = torch.get_num_threads()
    parts = {"predict": predict.run, "evaluate": predict.evaluate}
    monkeypatch.setattr(workers, "call", lambda _, job: parts[job["kind"]](job))
    yield
    torch.set_num_threads(threads)


def test_whoever_fetches_a_release_gets_the_same_answers(here, mreg, repo, run, tmp_path, monkeypatch):
    monkeypatch.setenv("MREG_REGISTRY", f"dir:{repo.parent / 'registry'}")
    monkeypatch.chdir(repo)

    def call(*words):
        done = mreg(*words)
        assert done.exit_code == 0, done.output
        return done

    call("evaluate", run, repo / "data" / "raw" / NAME, "--device", "cpu")
    card = (repo / "README.md").read_text()
    for name in ("roc", "confusion", "reliability"):
        assert f"(figures/{name}.png)" in card
        assert (repo / "figures" / f"{name}.png").read_bytes()[:4] == b"\x89PNG"
    (contrast,) = json.loads((run / "evaluation.json").read_text())["labels"]["Contrast"]["classes"].values()
    low, high = contrast["interval"]
    cases, auc = contrast["positive"], contrast["auc"]
    assert f"| Contrast | gray matter | {cases} | {auc:.2f} | {low:.2f} to {high:.2f} |" in card
    assert [f for f in json.loads(call("check", ".", "--json").stdout)["findings"] if f["level"] == "error"] == []
    released = json.loads(call("release", ".", "--tag", TAG, "--publish-with", "direct", "--json").stdout)
    assert released["published"]
    archive = call("fetch", f"{MODEL}@{TAG}", "-o", tmp_path / "fetched").stdout.strip()
    shutil.copy(repo / "dist" / TAG / "mreg-release.json", tmp_path / "fetched")
    checked = json.loads(call("check", archive, "--run", "--json").stdout)["findings"]
    (note,) = [finding for finding in checked if finding["code"].startswith("SMOKE")]
    assert note["code"] == "SMOKE006"
    assert "largest difference from the reference 0.0000, same bytes" in note["message"]
    (line,) = json.loads(call("list", "--json").stdout)
    assert (line["name"], line["tag"], line["labels"]) == (MODEL, TAG, ["Contrast", "Height"])
    shown = call("show", f"{MODEL}@{TAG}").stdout
    assert "Contrast (2 classes), Height (3 classes)" in shown
    assert f"{auc:.3f}  {low:.3f} to {high:.3f}" in shown
    notes = json.loads((repo.parent / "registry" / MODEL / "releases" / TAG / "release.json").read_text())["notes"]
    assert f"| {auc:.3f} | {low:.3f} to {high:.3f} |" in notes
    assert "sct_deepseg" not in notes
    call("verify", f"{MODEL}@{TAG}")
    image, mask = files(repo)
    for target, out in ((run, "own"), (f"{MODEL}@{TAG}", "fetched")):
        call("predict", target, image, "-o", tmp_path / out, "--mask", mask, "--device", "cpu")
    own, theirs = (tmp_path / out / "brain_piece_0000.json" for out in ("own", "fetched"))
    assert own.read_bytes() == theirs.read_bytes()


def test_an_archive_that_answers_otherwise_is_found_out(here, repo, run, tmp_path):
    from registry import smoke
    from registry.packaging import package

    made = package(run, tag=TAG, out=tmp_path / "dist")
    manifest = json.loads(made.manifest.read_text())
    stored = manifest["models"][0]["reference"]
    assert set(stored["probabilities"]) == {"Contrast", "Height"}
    assert stored["image"]["kind"] == "mni152"
    first = next(iter(stored["probabilities"]["Contrast"]))
    stored["probabilities"]["Contrast"][first] += 0.02
    made.manifest.write_text(json.dumps(manifest))
    found = list(smoke.findings(made.archive))
    assert [finding.code for finding in found] == ["SMOKE003", "SMOKE006"]
    assert "differs by 0.0200 from the reference" in found[0].message
    made.manifest.unlink()
    assert [finding.code for finding in smoke.findings(made.archive)] == ["SMOKE005", "SMOKE006"]
