"""A pre-trained encoder as a release: packed, checked, published, found, fetched, and taken as a start."""

import json
import shutil
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from fixtures_encoder import FOLDER, NAME, write_encoder_repo
from fixtures_release import TAG, add_repo, publish

from registry import checkpoints, starts, workers
from registry.card import table
from registry.encoder_network import encoder_shapes
from registry.errors import IntegrityError, MregError, NotFoundError
from registry.files import sha256
from registry.manifest import Start
from registry.manifest import read as read_manifest
from registry.model_facts import started_from
from registry.model_toml import find_repo
from registry.packaging import package
from registry.releases import release
from registry.stores.folder import FolderStore
from trainers.pretraining.checkpoint import load

SEGMENTATION = "model_seg_sc_t2"
PAPERS = ("2111.06377", "2404.09556", "2412.17041")


@pytest.fixture
def target(tmp_path: Path):
    """Return the repo of a segmentation that is to start from something."""
    root = tmp_path / SEGMENTATION
    root.mkdir()
    (root / "model.toml").write_text(f'[model]\nname = "{SEGMENTATION}"\n')
    return find_repo(root)


def unpacked(archive: Path, folder: Path) -> Path:
    with zipfile.ZipFile(archive) as source:
        source.extractall(folder)
    return folder / FOLDER


def test_an_archive_has_what_a_training_needs_and_nothing_that_tells_of_people(
    tiny_encoder, tiny_encoder_package, tmp_path
):
    model = unpacked(tiny_encoder_package.archive, tmp_path / "archive")
    assert sorted(path.relative_to(model).as_posix() for path in model.rglob("*") if path.is_file()) == [
        "adaptation_plan.json", "config.json", "environment.json", "fold_all/checkpoint_final.pth",
        "fold_all/metrics.jsonl", "plans.json",
    ]  # fmt: skip
    assert "path" not in json.loads((model / "config.json").read_text())["dataset"]
    checkpoint = model / "fold_all" / "checkpoint_final.pth"
    assert checkpoints.scan(checkpoint) == []
    state = torch.load(checkpoint, weights_only=True)
    assert set(state) == {
        "network_weights", "init_args", "trainer_name", "nnssl_adaptation_plan", "citations", "mreg",
    }  # fmt: skip
    before, after = load(tiny_encoder / "fold_all" / "checkpoint_final.pth"), load(checkpoint)
    assert after.plan == before.plan
    assert after.citations == before.citations
    assert after.trainer_name == before.trainer_name
    assert list(after.weights) == list(before.weights)
    assert all(torch.equal(after.weights[key], before.weights[key]) for key in before.weights)


def test_the_manifest_says_how_it_was_trained(tiny_encoder_package):
    (model,) = read_manifest(tiny_encoder_package.manifest).models
    about = model.pretraining
    assert about is not None
    assert (about.method, about.encoder, about.subjects, about.modalities) == (
        "mae", "ResidualEncoderUNet", 7, ("T1w", "T2w"),
    )  # fmt: skip
    assert about.loss == (1.0, 0.75)
    assert about.val_loss == (0.9, 0.65)
    assert about.spacing_mm == (1.0, 1.0, 1.0)
    assert [number for number in PAPERS if any(number in text for text in about.citations)] == list(PAPERS)
    assert model.orientation == "LPI"
    assert (model.labels, model.sct_suffixes, model.metrics, model.reference) == ({}, (), None, None)
    assert model.data.source == {"address": "https://example.org/spine, version 3"}


@pytest.mark.parametrize("encoder", ["resenc", "primus"])
def test_the_weights_of_an_encoder_are_worked_out_without_torch(encoder, tmp_path):
    found = load(write_encoder_repo(tmp_path, encoder) / "fold_all" / "checkpoint_final.pth")
    parts = tuple(f"{found.plan[key]}." for key in ("key_to_encoder", "key_to_stem"))
    there = {name: tuple(value.shape) for name, value in found.weights.items() if name.startswith(parts)}
    assert encoder_shapes(found.plan) == there


def test_a_half_precision_encoder_can_be_started_from(tiny_encoder, tmp_path, mreg):
    done = mreg("package", tiny_encoder, "--tag", TAG, "-o", tmp_path, "--half")
    assert done.exit_code == 0, done.stderr
    found = load(unpacked(tmp_path / f"{NAME}-{TAG}.zip", tmp_path) / "fold_all" / "checkpoint_final.pth")
    assert found.weights["encoder.stem.convs.0.conv.weight"].dtype == torch.float16


def test_an_encoder_is_released_listed_shown_verified_and_fetched(store, tiny_encoder, tmp_path, mreg):
    root = Path(shutil.copytree(tiny_encoder.parents[1], tmp_path / NAME))
    add_repo(store, tmp_path / "first-commit", NAME, "Encoder")
    made = release(find_repo(root), store, tag=TAG)
    assert made.published
    assert not release(find_repo(root), store, tag=TAG).changed

    place = ("--registry", store.location)
    (listed,) = json.loads(mreg("list", "--task", "pretrain", "--json", *place).stdout)
    assert (listed["name"], listed["tag"], listed["orientation"], listed["labels"]) == (NAME, TAG, "LPI", [])
    assert NAME in mreg("list", *place).stdout
    shown = mreg("show", f"{NAME}@{TAG}", *place)
    assert shown.exit_code == 0, shown.stderr
    for words in ("MAE", "ResidualEncoderUNet", "14 images of 7 subjects", "1 → 0.75", "0.9 → 0.65"):
        assert words in shown.stdout
    notes = store.releases(NAME)[0].notes
    for words in (f"mreg train --from {NAME}@{TAG}", *PAPERS, "segmentation or classification"):
        assert words in notes
    assert "sct_deepseg" not in notes
    proven = json.loads(mreg("verify", f"{NAME}@{TAG}", "--json", *place).stdout)
    assert proven["ok"]
    assert mreg("check", f"{NAME}@{TAG}", *place).exit_code == 0
    done = mreg("fetch", f"{NAME}@{TAG}", "--unpack", "-o", tmp_path / "out", *place)
    folder = Path(done.stdout.strip())
    assert load(folder / FOLDER / "fold_all" / "checkpoint_final.pth").plan
    assert mreg("check", folder / FOLDER).exit_code == 0
    for verb in (("predict", f"{NAME}@{TAG}", "x.nii.gz", "-o", tmp_path / "p"), ("sct", f"{NAME}@{TAG}")):
        done = mreg(*verb, *place)
        assert done.exit_code == 1
        assert "a pre-trained encoder" in done.stderr
        assert f"mreg train --from {NAME}@{TAG}" in done.stderr


def test_two_releases_of_an_encoder_are_compared(tiny_encoder_package, tiny_encoder, tmp_path, mreg):
    same = tmp_path / f"{NAME}-r20260201.zip"
    shutil.copy(tiny_encoder_package.archive, same)
    done = mreg("check", same, "--against", tiny_encoder_package.archive)
    assert done.exit_code == 0, done.stdout
    done = mreg("check", tiny_encoder, "--against", tiny_encoder_package.archive)
    assert done.exit_code == 0, done.stdout


def test_running_the_check_builds_the_network_of_the_plan(tiny_encoder_package, mreg, monkeypatch):
    done = mreg("check", tiny_encoder_package.archive, "--run")
    assert done.exit_code == 0, done.stderr
    assert "a network of its plan takes" in done.stdout

    def refuse(recipe: str, job: dict) -> None:
        raise MregError("the checkpoint does not fit its plan below eva")

    monkeypatch.setattr(workers, "call", refuse)
    done = mreg("check", tiny_encoder_package.archive, "--run")
    assert done.exit_code == 1
    assert "SMOKE001" in done.stdout
    assert "does not fit its plan" in done.stdout


def test_a_training_starts_from_a_release_of_either_registry(store, tiny_encoder_package, target, tmp_path):
    add_repo(store, tmp_path / "first-commit", NAME)
    publish(store, TAG, *tiny_encoder_package, name=NAME)
    for ref in (NAME, f"{NAME}@{TAG}"):
        start = starts.find_start(target, {"start_from": ref}, store.location)
        assert start.as_json() == {
            "name": NAME, "tag": TAG, "asset": tiny_encoder_package.archive.name,
            "sha256": sha256(tiny_encoder_package.archive), "checkpoint": sha256(start.checkpoint),
        }  # fmt: skip
        assert load(start.checkpoint).trainer_name == "mreg_mae_resenc"


def test_a_release_is_started_from_without_network_once_it_was_fetched(
    tiny_encoder_package, target, tmp_path, monkeypatch, mreg
):
    (tmp_path / "registry").mkdir()
    store = FolderStore(tmp_path / "registry")
    add_repo(store, tmp_path / "first-commit", NAME)
    publish(store, TAG, *tiny_encoder_package, name=NAME)
    first = starts.find_start(target, {"start_from": f"{NAME}@{TAG}"}, store.location)
    monkeypatch.setenv("MREG_OFFLINE", "1")
    assert starts.find_start(target, {"start_from": f"{NAME}@{TAG}"}, store.location) == first


def test_a_training_starts_from_an_archive_a_folder_a_run_a_repo_and_a_file(
    tiny_encoder, tiny_encoder_package, target, tmp_path
):
    model = unpacked(tiny_encoder_package.archive, tmp_path / "unpacked")
    repo, file = tiny_encoder.parents[1], tiny_encoder / "fold_all" / "checkpoint_final.pth"
    found = starts.find_start(target, {"start_from": str(tiny_encoder_package.archive)})
    assert (found.name, found.tag, found.sha256) == (NAME, TAG, sha256(tiny_encoder_package.archive))
    alone = tmp_path / "alone.zip"
    shutil.copy(tiny_encoder_package.archive, alone)
    found = starts.find_start(target, {"start_from": str(alone)})
    assert (found.name, found.asset, found.sha256) == ("", "alone.zip", sha256(alone))
    released = sha256(model / "fold_all" / "checkpoint_final.pth")
    for place in (model.parent, model):
        assert starts.find_start(target, {"start_from": str(place)}).as_json() == {
            "name": None, "tag": None, "asset": None, "sha256": None, "checkpoint": released,
        }  # fmt: skip
    for place in (repo, tiny_encoder, file):
        assert starts.find_start(target, {"start_from": str(place)}).checkpoint == file.resolve()
    assert starts.find_start(target, {}) is None


def test_a_damaged_archive_is_not_started_from(tiny_encoder_package, target, tmp_path):
    for path in tiny_encoder_package:
        shutil.copy(path, tmp_path)
    archive = tmp_path / tiny_encoder_package.archive.name
    data = bytearray(archive.read_bytes())
    data[len(data) // 2] ^= 1
    archive.write_bytes(data)
    with pytest.raises(IntegrityError, match="not the file that"):
        starts.find_start(target, {"start_from": str(archive)})


def test_a_model_of_another_kind_is_refused_before_it_is_downloaded(released, target, tmp_path):
    name, tag = SEGMENTATION, TAG
    with pytest.raises(MregError, match="a model of recipe nnunet, and recipe nnunet starts from models of pretrain"):
        starts.find_start(target, {"start_from": f"{name}@{tag}"}, released.location)
    assert not (tmp_path / "cache" / "archives").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gone/checkpoint.pth", "no pre-trained encoder"),
        ("gone.zip", "no pre-trained encoder"),
        ("model_pretrain_gone@r20260131", "model_pretrain_gone"),
        ("RUN", "a model of recipe nnunet"),
        ("EMPTY", "no pre-trained encoder"),
    ],
)
def test_what_cannot_be_started_from_is_one_error(text, message, target, tiny_run, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "registry").mkdir()
    chosen = {"RUN": str(tiny_run), "EMPTY": str(tmp_path / "empty")}.get(text, text)
    with pytest.raises(MregError, match=message):
        starts.find_start(target, {"start_from": chosen}, f"dir:{tmp_path / 'registry'}")


def test_recipes_that_start_from_nothing_say_so(tiny_encoder):
    with pytest.raises(MregError, match="recipe pretrain starts from no other model"):
        starts.find_start(find_repo(tiny_encoder), {"start_from": "model_pretrain_sc"})


def test_the_plan_of_a_training_names_its_start(tiny_encoder, repo_with_run, monkeypatch):
    from registry import training

    seen = {}
    recipe = SimpleNamespace(plan=lambda repo, _, overrides: seen.update(overrides) or _planned(repo))
    monkeypatch.setitem(training.MODULES, "nnunet", recipe)
    planned = training.plan(find_repo(repo_with_run), {"start_from": str(tiny_encoder)})
    assert seen["start_from"] == sha256(planned.start.checkpoint)
    assert planned.start.checkpoint == (tiny_encoder / "fold_all" / "checkpoint_final.pth").resolve()
    again = training.plan(find_repo(repo_with_run), {"start_from": "gone"}, start=planned.start)
    assert again.start == planned.start


def _planned(repo):
    from registry.planning import Planned
    from trainers.catalog import RECIPES

    return Planned(
        recipe=RECIPES["nnunet"], settings={}, dataset=repo.root, dataset_json={}, digest="", trainer_file=None,
        run=repo.runs / "x",
    )  # fmt: skip


def test_a_fine_tuned_models_manifest_names_the_release_that_it_started_from(repo_with_run, mreg):
    run = next((repo_with_run / "runs").iterdir())
    config = json.loads((run / "config.json").read_text())
    start = {"name": NAME, "tag": TAG, "asset": f"{NAME}-{TAG}.zip", "sha256": "ab" * 32, "checkpoint": "cd" * 32}
    (run / "config.json").write_text(json.dumps({**config, "start": start}))
    done = mreg("package", run, "--tag", TAG, "--no-reference")
    assert done.exit_code == 0, done.stderr
    archive = Path(done.stdout.strip())
    (model,) = read_manifest(archive.with_name("mreg-release.json")).models
    assert model.start.model_dump() == start
    assert f"{NAME}@{TAG} (SHA-256 {'ab' * 32})" in mreg("show", archive).stdout
    config["settings"]["from_scratch"] = True
    (run / "config.json").write_text(json.dumps({**config, "start": start}))
    mreg("package", run, "--tag", "r20260201", "--no-reference")
    (model,) = read_manifest(repo_with_run / "dist" / "r20260201" / "mreg-release.json").models
    assert model.start is None


def test_a_new_repo_of_an_encoder_has_no_finding_and_its_card_is_filled_by_the_training(tiny_encoder, tmp_path, mreg):
    from registry import encoder_card
    from registry.runs import read_run

    name = "model_pretrain_spine_agnostic_resencl"
    done = mreg("new", name, "--local", "--dir", tmp_path)
    assert done.exit_code == 0, done.stderr
    assert 'recipe = "pretrain"' in (tmp_path / name / "model.toml").read_text()
    assert json.loads(mreg("check", tmp_path / name, "--format", "json").stdout)["findings"] == []
    encoder_card.write(tmp_path / name, read_run(tiny_encoder))
    card = (tmp_path / name / "README.md").read_text()
    for words in ("MAE", "0.9 → 0.65", *PAPERS, f"mreg train --from {NAME}"):
        assert words in card
    encoder_card.write(tmp_path / name, read_run(tiny_encoder))
    assert (tmp_path / name / "README.md").read_text() == card
    assert json.loads(mreg("check", tmp_path / name, "--format", "json").stdout)["findings"] == []


def test_a_name_without_a_model_is_not_found(target, tmp_path):
    (tmp_path / "registry").mkdir()
    with pytest.raises(NotFoundError):
        starts.find_start(target, {"start_from": "model_pretrain_gone"}, f"dir:{tmp_path / 'registry'}")


def test_of_a_release_with_several_encoders_one_has_to_be_fetched_first(tiny_encoder, target, tmp_path):
    out, store = tmp_path / "out", FolderStore(tmp_path / "registry")
    store.root.mkdir()
    for variant in ("first", "second"):
        made = package(tiny_encoder, tag=TAG, out=out, variant=variant)
    add_repo(store, tmp_path / "first-commit", NAME)
    publish(store, TAG, *sorted(out.glob("*.zip")), made.manifest, name=NAME)
    with pytest.raises(MregError, match="2 archives") as error:
        starts.find_start(target, {"start_from": f"{NAME}@{TAG}"}, store.location)
    assert f"mreg fetch {NAME}@{TAG} --asset NAME -o DIR" in error.value.hint
    found = starts.find_start(target, {"start_from": str(made.archive)})
    assert (found.name, found.tag, found.asset) == (NAME, TAG, f"{NAME}-second-{TAG}.zip")


def test_the_card_of_a_fine_tuned_model_names_its_start():
    evaluation = {"cases": {}, "folds": [0], "dataset": "D", "split": "test", "half": False, "mean": {}}
    evaluation["checkpoint"] = "checkpoint_final.pth"
    start = started_from(Start(name=NAME, tag=TAG, asset=None, sha256="ab" * 32, checkpoint="cd" * 32))
    assert f"training started from {NAME}@{TAG} (SHA-256 {'ab' * 32})" in table({**evaluation, "start": start})
    assert "started from" not in table({**evaluation, "start": ""})
