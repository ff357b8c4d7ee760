"""`mreg train` with real nnU-Net on real MRI, in seconds."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from command import COMMAND, run_mreg
from fixtures_dataset import write_dataset

from registry import planning, training
from registry.errors import MregError
from registry.planning import dataset_hash
from trainers.core.trackers import plain
from trainers.segmentation.config import SegmentationSettings
from trainers.segmentation.trainer_classes import find_trainer_class

NOISY = ("train", "--set", "configuration=2d")
CUSTOM = """\
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer


class nnUNetTrainer_twoEpochs(nnUNetTrainer):
    def __init__(self, plans, configuration, fold, dataset_json, device):
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.num_epochs = 2
"""


@pytest.fixture
def repo(trained_repo: Path, tmp_path: Path) -> Path:
    """Return a copy of the trained repo, preprocessed data included."""
    return Path(shutil.copytree(trained_repo, tmp_path / trained_repo.name, symlinks=True))


def lines(run: Path, fold: int = 0) -> list[dict]:
    return [json.loads(line) for line in (run / f"fold_{fold}" / "metrics.jsonl").read_text().splitlines()]


def the_run(repo: Path) -> Path:
    (run,) = (p for p in (repo / "runs").iterdir() if (p / "config.json").is_file())
    return run


def test_a_run_holds_what_the_other_half_reads(trained_repo: Path) -> None:
    run = the_run(trained_repo)
    config = json.loads((run / "config.json").read_text())
    assert config["trainer"] == "nnUNetTrainer"
    assert config["plans"] == "nnUNetPlans"
    assert config["dataset"]["image_orientation"] == "LPI"
    assert not Path(config["dataset"]["path"]).is_absolute()
    plans = json.loads((run / "plans.json").read_text())
    assert plans["configurations"]["2d"]["patch_size"] == [32, 32]
    assert plans["configurations"]["2d"]["architecture"]["arch_kwargs"]["features_per_stage"] == [4, 8, 8]
    assert plans["plans_name"] == "nnUNetPlans"
    environment = json.loads((run / "environment.json").read_text())
    assert environment["packages"]["nnunetv2"]
    assert environment["dataset_hash"] == config["dataset"]["hash"]
    for name in ("checkpoint_final.pth", "progress.png", "debug.json", "validation/summary.json"):
        assert (run / "fold_0" / name).is_file(), name
    assert not (run / "fold_0" / "checkpoint_best.pth").exists()
    assert [line["epoch"] for line in lines(run)] == [0, 1, 2]
    assert all(math.isfinite(line["train_loss"]) for line in lines(run))


def test_the_checkpoint_is_inert_from_the_start(trained_repo: Path) -> None:
    path = the_run(trained_repo) / "fold_0" / "checkpoint_final.pth"
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    assert checkpoint["trainer_name"] == "nnUNetTrainer"
    assert isinstance(checkpoint["_best_ema"], float)


def test_the_summary_names_files_and_no_folders(trained_repo: Path) -> None:
    text = (the_run(trained_repo) / "fold_0" / "validation" / "summary.json").read_text()
    assert str(trained_repo) not in text
    assert '"reference_file": "sub-01_T1w.nii.gz"' in text


def test_a_finished_training_is_not_done_again(repo: Path) -> None:
    before = (the_run(repo) / "fold_0" / "checkpoint_final.pth").stat().st_mtime_ns
    done = run_mreg("train", "--json", cwd=repo)
    assert json.loads(done.stdout)["done_before"] == [0]
    assert (the_run(repo) / "fold_0" / "checkpoint_final.pth").stat().st_mtime_ns == before


def test_a_killed_training_continues_and_repeats_the_uninterrupted_one(repo: Path, trained_repo: Path) -> None:
    shutil.rmtree(the_run(repo) / "fold_0")
    process = subprocess.Popen(
        [*COMMAND, "train"], cwd=repo, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    latest = the_run(repo) / "fold_0" / "checkpoint_latest.pth"
    deadline = time.monotonic() + 120
    while not latest.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert latest.exists()
    assert not (the_run(repo) / "fold_0" / "checkpoint_final.pth").exists()
    done = run_mreg("train", cwd=repo)
    assert done.returncode == 0, done.stderr
    assert "continues at epoch" in done.stderr
    assert done.stdout == f"{the_run(repo)}\n"
    interrupted, straight = lines(the_run(repo)), lines(the_run(trained_repo))
    assert [line["train_loss"] for line in interrupted] == [line["train_loss"] for line in straight]


def test_a_damaged_checkpoint_is_noticed_and_nothing_is_trained_over_it(repo: Path) -> None:
    fold = the_run(repo) / "fold_0"
    whole = (fold / "checkpoint_final.pth").read_bytes()
    (fold / "checkpoint_latest.pth").write_bytes(whole[: len(whole) // 2])
    (fold / "checkpoint_final.pth").unlink()
    done = run_mreg("train", cwd=repo)
    assert done.returncode == 1
    assert "checkpoint_latest.pth: damaged" in done.stderr
    assert (fold / "checkpoint_latest.pth").stat().st_size == len(whole) // 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_training_that_is_told_to_stop_saves_its_step_and_goes_on_there(
    repo: Path, trained_repo: Path, number: signal.Signals
) -> None:
    fold = the_run(repo) / "fold_0"
    shutil.rmtree(fold)
    process = subprocess.Popen([*COMMAND, "train"], cwd=repo, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not (fold / "checkpoint_latest.pth").exists() and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(number)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 1
    assert f"stopped by {number.name}; everything is saved" in said
    assert not (fold / "checkpoint_final.pth").exists()
    assert run_mreg("train", cwd=repo).returncode == 0
    assert [line["train_loss"] for line in lines(the_run(repo))] == [
        line["train_loss"] for line in lines(the_run(trained_repo))
    ]
    assert not (fold / "checkpoint_previous.pth").exists()


def test_a_time_limit_stops_within_an_epoch_and_the_damaged_last_of_two_checkpoints_is_not_used(
    repo: Path, trained_repo: Path
) -> None:
    fold = the_run(repo) / "fold_0"
    shutil.rmtree(fold)
    for _ in range(2):
        done = run_mreg("train", "--max-time", "0.0001", cwd=repo)
        assert "the time limit of 0.0001 minutes" in done.stderr
    latest = fold / "checkpoint_latest.pth"
    stopped = torch.load(latest, map_location="cpu", weights_only=True)
    assert stopped["current_epoch"] == 0
    assert len(stopped["logging"]["mreg_steps"]) == 2
    data = bytearray(latest.read_bytes())
    weights = next(iter(stopped["network_weights"].values())).numpy().tobytes()
    data[data.index(weights) + 3] ^= 1
    latest.write_bytes(data)
    done = run_mreg("train", cwd=repo)
    assert done.returncode == 0, done.stderr
    assert "checkpoint_latest.pth is damaged" in done.stderr
    assert [line["train_loss"] for line in lines(the_run(repo))] == [
        line["train_loss"] for line in lines(the_run(trained_repo))
    ]


def test_another_fold_joins_the_same_run(repo: Path) -> None:
    done = run_mreg("train", "--fold", 1, "--json", cwd=repo)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["trained"] == [1]
    assert answer["complete"]
    assert Path(answer["run"]) == the_run(repo)
    assert json.loads((the_run(repo) / "config.json").read_text())["settings"]["folds"] == [0, 1]


def test_restart_keeps_the_earlier_run(repo: Path) -> None:
    run = the_run(repo)
    done = run_mreg("train", "--restart", "--set", "folds=[2]", cwd=repo)
    assert done.returncode == 0, done.stderr
    assert (run.with_name(f"{run.name}.old1") / "fold_0" / "checkpoint_final.pth").is_file()
    assert (run / "fold_2" / "checkpoint_final.pth").is_file()


def test_the_repos_own_trainer_class_is_trained_under_its_name(repo: Path) -> None:
    (repo / "trainer_class.py").write_text(CUSTOM)
    (repo / "trainers").mkdir()
    (repo / "trainers" / "__init__.py").write_text("raise SystemExit('the wrong package')")
    done = run_mreg(*NOISY, "--set", "trainer=nnUNetTrainer_twoEpochs", "--set", "epochs=1", "--json", cwd=repo)
    assert done.returncode == 0, done.stderr
    run = Path(json.loads(done.stdout)["run"])
    assert (run / "trainer_class.py").read_text() == CUSTOM
    checkpoint = torch.load(run / "fold_0" / "checkpoint_final.pth", weights_only=True)
    assert checkpoint["trainer_name"] == "nnUNetTrainer_twoEpochs"


def test_the_users_own_nnunet_folders_are_never_touched(repo: Path, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    done = run_mreg(
        "train", "--set", "epochs=1", cwd=repo,
        nnUNet_raw=str(theirs), nnUNet_preprocessed=str(theirs), nnUNet_results=str(theirs),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert not theirs.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "epoch=3"], "unknown key 'epoch'"),
        (["--set", "epochs=-3"], "epochs = -3"),
        (["--set", "epochs"], "is not KEY=VALUE"),
        (["--set", "configuration=4d"], "configuration = '4d'"),
        (["--set", "configuration=3d_lowres"], "'3d_lowres' is not in the plan"),
        (["--set", "patch_size=[32, 32, 32]"], "has 3 axes"),
        (["--set", "patch_size=[8, 8]"], "too small"),
        (["--set", "features=[4, 8]"], "features"),
        (["--set", "features=[4, 8, 8, 8, 8, 8]"], "allows"),
        (["--set", "trainer=nnUNetTrainerFromNowhere"], "neither one of nnU-Net's nor in a trainer_class.py"),
        (["--fold", 7], "fold 7 does not exist"),
    ],
)
def test_a_bad_setting_is_one_clear_error(repo: Path, arguments: list, message: str) -> None:
    done = run_mreg("train", *arguments, cwd=repo)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unknown_key_in_model_toml_is_refused(repo: Path) -> None:
    with (repo / "model.toml").open("a") as file:
        file.write("epoch = 3\n")
    done = run_mreg("train", cwd=repo)
    assert done.returncode == 1
    assert "unknown key" in done.stderr
    assert "epoch" in done.stderr


def test_data_that_contradict_the_repo_are_refused(repo: Path) -> None:
    contract = json.loads((repo / "dataset.json").read_text())
    assert contract["image_orientation"] == "LPI"
    (repo / "dataset.json").write_text(json.dumps({**contract, "image_orientation": "RPI"}))
    done = run_mreg("train", cwd=repo)
    assert done.returncode == 1
    assert "image_orientation" in done.stderr
    assert "contradicts" in done.stderr


def test_bad_data_stop_before_anything_is_computed(repo: Path) -> None:
    image = next((repo / "data" / "raw").rglob("sub-02_T1w_0000.nii.gz"))
    image.write_bytes(image.read_bytes()[:500])
    done = run_mreg("train", cwd=repo)
    assert done.returncode == 1
    assert "sub-02_T1w_0000.nii.gz" in done.stderr
    assert len(list((repo / "data" / "preprocessed").iterdir())) == 1


def test_two_trainings_of_one_run_do_not_meet(repo: Path) -> None:
    from filelock import FileLock

    with FileLock(the_run(repo) / ".lock"):
        done = run_mreg("train", cwd=repo)
    assert done.returncode == 1
    assert "another process is training" in done.stderr


def test_trainers_of_nnunet_are_found_without_importing_the_others() -> None:
    assert find_trainer_class("nnUNetTrainer_5epochs", None).__name__ == "nnUNetTrainer_5epochs"


def test_settings_on_the_command_line_win() -> None:
    settings = planning.resolve_settings(SegmentationSettings, {"epochs": 5, "seed": 1}, {"epochs": 7})
    assert (settings["epochs"], settings["seed"]) == (7, 1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("epochs=3", ("epochs", 3)), ("a=[1, 2]", ("a", [1, 2])), ("a=2d", ("a", "2d")), ("a=x=y", ("a", "x=y"))],
)
def test_assignments_are_read_as_toml_or_text(text: str, expected: tuple) -> None:
    assert training.parse_assignment(text) == expected


@pytest.mark.parametrize("text", ["", "=3", "a b=3"])
def test_what_is_no_assignment_is_refused(text: str) -> None:
    with pytest.raises(MregError):
        training.parse_assignment(text)


def test_plain_leaves_only_json() -> None:
    import numpy as np

    value = {"a": np.float32(0.5), "b": [np.int64(2), float("nan")], "c": np.array([1.0, 2.0])}
    assert plain(value) == {"a": 0.5, "b": [2, None], "c": [1.0, 2.0]}


def test_a_loss_that_is_not_a_number_stops_the_training(repo: Path) -> None:
    done = run_mreg("train", "--set", "initial_lr=1e30", cwd=repo)
    assert done.returncode == 1
    assert "is not a number" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_cache_belongs_to_the_content_of_the_data_and_to_nothing_else(tmp_path: Path) -> None:
    first = write_dataset(tmp_path / "first")
    memory = tmp_path / "hashes.json"
    wanted = dataset_hash(first, memory)
    other = Path(shutil.copytree(first, tmp_path / "elsewhere" / first.name, copy_function=shutil.copyfile))
    assert dataset_hash(other, tmp_path / "none.json") == wanted  # whatever its place and the files' times are
    document = json.loads((first / "dataset.json").read_text())
    (other / "dataset.json").write_text(json.dumps({**document, "training": [{"image": "a"}]}))
    assert dataset_hash(other, memory) == wanted
    found = {wanted}
    for change in (
        lambda: (other / "dataset.json").write_text(json.dumps({**document, "labels": {"background": 0, "x": 1}})),
        lambda: next((other / "labelsTr").iterdir()).rename(other / "labelsTr" / "renamed.nii.gz"),
        (other / "imagesTr" / "more_0000.nii.gz").touch,
        lambda: flip_a_bit(next((other / "imagesTr").glob("sub-02*"))),
    ):
        change()
        assert dataset_hash(other, memory) not in found
        found.add(dataset_hash(other, memory))
    memory.write_text("{")
    assert dataset_hash(first, memory) == wanted


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
