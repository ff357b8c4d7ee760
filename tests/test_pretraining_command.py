"""Pre-training from the command line: the collection is hashed and verified, the encoder trained and found again."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from command import run_mreg
from fixtures_encoder import SEGMENTATION, write_segmentation_repo
from fixtures_release import TAG, add_repo

from registry import slurm
from registry.files import sha256
from registry.model_toml import find_repo
from registry.stores.folder import FolderStore
from trainers.pretraining.checkpoint import load

NAME = "Dataset530_SpineSSL"
MODEL = "model_pretrain_sc"
MODEL_TOML = f"""\
[model]
name = "{MODEL}"

[data]
dataset = "data/raw/{NAME}"

[train]
recipe = "pretrain"
method = "mae"
encoder = "resenc"
profile = "tiny"
epochs = 1
device = "cpu"
method_options = {{ mask_ratio = 0.5 }}
"""


@pytest.fixture(scope="module")
def repo(test_data, tmp_path_factory):
    """Return a repo with real images of three subjects."""
    root = tmp_path_factory.mktemp("encoder") / MODEL
    source, target = test_data / "nnssl_raw" / NAME, root / "data" / "raw" / NAME
    document = json.loads((source / "pretrain_data.json").read_text())
    document["datasets"] = {key: document["datasets"][key] for key in ("sct-testing", "spine-generic")}
    for key in document["datasets"]:
        shutil.copytree(source / "images" / key, target / "images" / key, copy_function=shutil.copyfile)
    (target / "pretrain_data.json").write_text(json.dumps(document))
    (root / "model.toml").write_text(MODEL_TOML)
    return root


def test_an_encoder_is_trained_and_the_same_command_finds_it(repo):
    done = run_mreg("train", "--json", cwd=repo)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["trained"] == ["all"]
    assert answer["complete"]
    (run,) = (repo / "runs").iterdir()
    assert run.name.startswith("pretrain-mae-resenc-")
    config = json.loads((run / "config.json").read_text())
    assert config["dataset"]["image_orientation"] == "LPI"
    assert config["dataset"]["num_subjects"] == 3
    assert config["dataset"]["modalities"] == sorted(config["dataset"]["modalities"])
    assert "sub-" not in json.dumps(config)
    assert load(run / "fold_all" / "checkpoint_final.pth").trainer_name == "mreg_mae_resenc"
    again = run_mreg("train", "--json", cwd=repo)
    assert json.loads(again.stdout)["done_before"] == ["all"], again.stderr


def test_what_was_trained_is_released_fetched_and_fine_tuned(repo, test_data, tmp_path, mreg, monkeypatch):
    (tmp_path / "registry").mkdir()
    monkeypatch.setenv("MREG_REGISTRY", f"dir:{tmp_path / 'registry'}")
    add_repo(FolderStore(tmp_path / "registry"), tmp_path / "first-commit", MODEL)
    (run,) = (path for path in (repo / "runs").iterdir() if (path / "fold_all" / "checkpoint_final.pth").is_file())
    done = mreg("check", run)
    assert done.exit_code == 0, done.stdout
    done = mreg("release", repo, "--run", run, "--tag", TAG)
    assert done.exit_code == 0, done.stderr
    archive = repo / "dist" / TAG / f"{MODEL}-{TAG}.zip"
    report = json.loads(mreg("check", archive, "--format", "json").stdout)
    assert not [finding for finding in report["findings"] if finding["code"] != "PRETRAIN008"], report  # one epoch
    done = mreg("fetch", f"{MODEL}@{TAG}")
    assert Path(done.stdout.strip()).read_bytes() == archive.read_bytes()
    model = write_segmentation_repo(tmp_path / SEGMENTATION, test_data, every=6)
    short = [flag for change in ("epochs=1", "iterations=1", "fine_tuning=frozen") for flag in ("--set", change)]
    done = run_mreg("train", "--json", "--from", f"{MODEL}@{TAG}", *short, cwd=model)
    assert done.returncode == 0, done.stderr
    tuned = model / json.loads(done.stdout)["run"]
    start = json.loads((tuned / "config.json").read_text())["start"]
    assert (start["name"], start["tag"], start["sha256"]) == (MODEL, TAG, sha256(archive))
    before = load(run / "fold_all" / "checkpoint_final.pth").weights
    after = torch.load(tuned / "fold_0" / "checkpoint_final.pth", weights_only=False)["network_weights"]
    report = json.loads((tuned / "fold_0" / "pretrained.json").read_text())
    encoder = {key for key in before if key.startswith(("encoder.stem.", "encoder.stages."))}
    assert set(report["used"]) == encoder
    assert set(report["skipped"]) == before.keys() - encoder
    assert set(report["new"]) == after.keys() - encoder
    assert f"{len(encoder)} weights taken, {len(report['skipped'])} left" in done.stderr
    assert all(torch.equal(after[key], before[key]) for key in encoder)  # it was frozen


@pytest.mark.long
def test_other_settings_are_another_run_and_a_cluster_trains_it(repo, monkeypatch):
    before = {path.name for path in (repo / "runs").glob("*")}
    jobs, submit = [], slurm._submit
    monkeypatch.setattr(slurm, "_submit", lambda *a: jobs.append(submit(*a)) or jobs[0])
    submitted = slurm.submit(find_repo(repo), {"seed": 7, "batch_size": 1}, {}, cluster="local")
    jobs[0]._process.wait(timeout=120)
    assert jobs[0].result() == {"run": str(submitted.run), "trained": ["all"], "done_before": []}
    assert {path.name for path in (repo / "runs").glob("*")} - before == {submitted.run.name}


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("method=simmim encoder=resenc", "a convolutional encoder has none"),
        ("method=s3d encoder=primus", "a Transformer does so with mae"),
        pytest.param("method_options={mask=0.5}", "no option 'mask'", marks=pytest.mark.long),
        ("encoder=primus encoder_options={heads=5}", "width 48 over 5 heads"),
        ("folds=[0]", "folds"),
    ],
)
def test_what_does_not_go_together_is_told_before_anything_is_computed(repo, assignment, message):
    flags = [part for pair in assignment.split() for part in ("--set", pair)]
    done = run_mreg("train", *flags, cwd=repo)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_folder_that_is_no_collection_is_told(repo, tmp_path):
    (tmp_path / "model.toml").write_text(MODEL_TOML)
    (tmp_path / "data" / "raw" / NAME).mkdir(parents=True)
    done = run_mreg("train", cwd=tmp_path)
    assert done.returncode == 1
    assert "no pretrain_data.json" in done.stderr
    assert "mreg data import --pretraining" in done.stderr
