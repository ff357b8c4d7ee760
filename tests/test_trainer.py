"""The mixin over nnU-Net's trainer classes: bad steps, stops, and classes of the user's own."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import math
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from fixtures_dataset import write_dataset
from nnunetv2.training.logging.nnunet_logger import LocalLogger

from trainers.core.errors import TrainingError
from trainers.core.files import read_json, write_json
from trainers.core.progress import Progress
from trainers.core.stopping import Stopped, Stopping
from trainers.segmentation import prepare, train, validation
from trainers.segmentation.config import SegmentationSettings

if TYPE_CHECKING:
    pass

SMALL = {
    "configuration": "2d", "patch_size": [32, 32], "features": [4, 8, 8], "batch_size": 2, "epochs": 2, "iterations": 4,
    "val_iterations": 1, "checkpoint_minutes": 0, "device": "cpu",
}  # fmt: skip
CLASS = """\
import math
import numpy as np
import torch
from batchgeneratorsv2.transforms.base.basic_transform import ImageOnlyTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer


class nnUNetTrainer_own(nnUNetTrainer):
"""
POISONED = """\
    def train_step(self, batch):
        if self.current_epoch in {epochs} and len(self._outputs) in {steps}:
            batch["data"][0, 0, 5, 5] = float("nan")
        return super().train_step(batch)
"""
GREEDY = """\
    def train_step(self, batch):
        torch.empty(1 << 50)
"""
DIMMING = """\
    @staticmethod
    def get_training_transforms(*args, **kwargs):
        stock = nnUNetTrainer.get_training_transforms(*args, **kwargs).transforms
        steady = [t for t in stock if "Blur" not in repr(t)]  # nnU-Net times two ways of it and takes the faster
        return ComposeTransforms([Dimmed(), *steady])


class Dimmed(ImageOnlyTransform):
    def get_parameters(self, **data):
        return {"factor": np.random.uniform(0.5, 1)}

    def _apply_to_image(self, image, factor):
        return image * factor
"""
OWN_DATA = """\
    def get_tr_and_val_datasets(self):
        training, validation = super().get_tr_and_val_datasets()
        training.identifiers = training.identifiers[:1]
        return training, validation
"""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> prepare.Prepared:
    """Return three preprocessed cases."""
    root = tmp_path_factory.mktemp("prepared")
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()):
        environment(patch, root)
        settings = SegmentationSettings.model_validate(SMALL)
        return prepare.prepare(write_dataset(root / "data"), root, settings, 1, Progress(io.StringIO()))


def environment(patch: pytest.MonkeyPatch, cache: Path) -> None:
    folders = {"raw": cache / "raw", "preprocessed": cache, "results": cache / "unused", "n_proc_DA": 0}
    for name, value in folders.items():
        patch.setenv(f"nnUNet_{name}", str(value))


@pytest.fixture
def job(prepared: prepare.Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return the job of a training on them; nnU-Net's figure is not drawn."""
    environment(monkeypatch, prepared.folder.parent)
    monkeypatch.setattr(LocalLogger, "plot_progress_png", lambda *_: None)
    cases = sorted(path.stem for path in (prepared.folder / "nnUNetPlans_2d").glob("*.pkl"))
    run = tmp_path / "run"
    run.mkdir()
    write_json(run / "plans.json", prepared.plans)
    return {
        "settings": SMALL, "run": str(run), "splits": [{"train": cases[1:], "val": cases[:1]}], "pretrained": None,
        "dataset_json": prepared.dataset_json, "trainer_file": None, "gpus": 1,
    }  # fmt: skip


def own(job: dict[str, Any], body: str, **more: Any) -> dict[str, Any]:
    """Return the job with a class of the user's."""
    file = Path(job["run"]).parent / "trainer_class.py"
    file.write_text(CLASS + body)
    return {**job, "settings": {**SMALL, "trainer": "nnUNetTrainer_own", **more}, "trainer_file": str(file)}


def run(job: dict[str, Any], stopping: Any = None, fold: int | str = 0) -> str:
    """Train a fold; return what was said."""
    said = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()):
        train._train_fold(job, fold, torch.device("cpu"), Progress(said), stopping or Stopping())
    return said.getvalue()


def lines(job: dict[str, Any]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (Path(job["run"]) / "fold_0" / "metrics.jsonl").read_text().splitlines()]


def losses(job: dict[str, Any]) -> list[float]:
    return [line["train_loss"] for line in lines(job)]


def test_a_step_that_is_not_finite_is_skipped_counted_and_its_cases_are_named(job) -> None:
    bad = own(job, POISONED.format(epochs=[0], steps=[1, 2]))
    said = run(bad)
    assert [line["skipped"] for line in lines(bad)] == [2, 0]
    assert all(math.isfinite(loss) for loss in losses(bad))
    assert "epoch 1, step 2 is skipped" in said
    assert "sub-0" in said
    assert said.count("is skipped") == 1
    weights = torch.load(Path(job["run"]) / "fold_0" / "checkpoint_final.pth", weights_only=True)["network_weights"]
    assert all(torch.isfinite(tensor).all() for tensor in weights.values())


def test_no_checkpoint_is_written_while_steps_are_skipped_and_a_training_without_any_other_has_failed(job) -> None:
    bad = own(job, POISONED.format(epochs=[1], steps=list(range(100))), iterations=60, epochs=3)
    fold = Path(job["run"]) / "fold_0"
    with pytest.raises(TrainingError, match=r"50 steps in a row without a finite loss, until epoch 2, step 50"):
        run(bad)
    state = torch.load(fold / "checkpoint_latest.pth", weights_only=True)
    assert state["current_epoch"] == 1
    assert all(math.isfinite(loss) for loss in state["logging"]["train_losses"])
    few = own(job, POISONED.format(epochs=[1], steps=[0, 1, 2, 3]), seed=1)
    (fold / "checkpoint_latest.pth").unlink()
    with pytest.raises(TrainingError, match="the loss of epoch 2 is not a number"):
        run(few)


def test_out_of_memory_is_answered_with_what_to_change(job) -> None:
    with pytest.raises(TrainingError, match=r"cpu has not enough memory for a batch of 2 patches of 32 x 32") as caught:
        run(own(job, GREEDY))
    assert "batch_size" in caught.value.hint


def test_a_case_that_is_too_large_to_be_predicted_is_named_and_the_training_is_not_lost(job, monkeypatch) -> None:
    short = {**job, "settings": {**SMALL, "epochs": 1, "iterations": 1}}
    with monkeypatch.context() as patch:
        patch.setattr(validation, "segment", lambda *_: torch.empty(1 << 50))
        with pytest.raises(TrainingError, match=r"sub-01_T1w: cpu has not enough memory to predict its \(6, 48, 48\)"):
            run(short)
    assert "epoch" not in run(short)
    assert (Path(job["run"]) / "fold_0" / "validation" / "summary.json").is_file()


def test_a_transform_of_the_users_own_keeps_nnunets_loaders_and_the_training_resumes_exactly(job, tmp_path) -> None:
    own_way = own(job, DIMMING)
    said = run(own_way)
    assert "nnU-Net's own loaders are used: the trainer asks for" in said
    straight = losses(own_way)
    again = {**own_way, "run": str(tmp_path / "again")}
    write_json(tmp_path / "again" / "plans.json", read_json(Path(job["run"]) / "plans.json"))
    with pytest.raises(Stopped):
        run(again, Steps(6))
    assert "continues at epoch 2 of 2" in run(again)
    assert losses(again) == straight


def test_datasets_of_the_users_own_are_not_passed_over(job) -> None:
    assert "the trainer has its own get_tr_and_val_datasets" in run(own(job, OWN_DATA, epochs=1))


class Steps(Stopping):
    """Stops after some questions."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.left = count

    def reason(self) -> str:
        self.left -= 1
        return "" if self.left > 0 else "SIGUSR1"


@pytest.mark.parametrize(
    "name", ["nnUNetTrainerNoMirroring", "nnUNetTrainer_5epochs", "nnUNetTrainer_warmup", "nnUNetTrainerDA5"]
)
def test_trainer_classes_of_nnunet_are_trained_as_they_are(job, name) -> None:
    settings = {key: value for key, value in SMALL.items() if key != "epochs"} | {"iterations": 1, "trainer": name}
    settings |= {} if name.endswith("5epochs") else {"epochs": 1}
    said = run({**job, "settings": settings})
    assert len(lines(job)) == (5 if name.endswith("5epochs") else 1)
    assert ("nnU-Net's own loaders are used" in said) == (name == "nnUNetTrainerDA5")
    made = torch.load(Path(job["run"]) / "fold_0" / "checkpoint_final.pth", weights_only=True)
    assert made["trainer_name"] == name
    assert (made["inference_allowed_mirroring_axes"] is None) == (name == "nnUNetTrainerNoMirroring")


def test_a_class_that_writes_no_checkpoints_is_refused(job) -> None:
    with pytest.raises(TrainingError, match="trainer nnUNetTrainer_own writes no checkpoints"):
        run(own(job, "    disable_checkpointing = property(lambda self: True, lambda self, value: None)\n"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import nowhere_to_be_found\n", r"line 1: ModuleNotFoundError: No module named 'nowhere_to_be_found'"),
        ("def f(:\n", r"line 1: SyntaxError"),
        ("x = 1\n\ny = x / 0\n", r"line 3: ZeroDivisionError"),
        ("class nnUNetTrainer_own:\n    pass\n", "has no class nnUNetTrainer_own that derives from nnUNetTrainer"),
    ],
)
def test_a_file_of_the_users_that_does_not_import_is_one_error_with_its_line(job, text, message) -> None:
    broken = own(job, "    pass\n")
    Path(broken["trainer_file"]).write_text(text)
    with pytest.raises(TrainingError, match=message) as caught:
        run(broken)
    assert "trainer_class.py" in caught.value.message


class Clock(Stopping):
    """A clock that goes on by 25 s a step."""

    now = 0.0

    def reason(self) -> str:
        self.now += 25
        return ""


def test_nnunets_figure_is_drawn_at_most_once_a_minute_and_at_the_end(job, monkeypatch) -> None:
    drawn, clock = [], Clock()
    monkeypatch.setattr(
        LocalLogger, "plot_progress_png", lambda logger, _: drawn.append(len(logger.get_value("lrs", None)))
    )
    monkeypatch.setattr(time, "monotonic", lambda: clock.now)
    run({**job, "settings": {**SMALL, "epochs": 5, "iterations": 1}}, clock)
    assert drawn == [1, 4, 5]  # at once, after 75 s, and the last epoch


class Validating(Stopping):
    """Stops in the validation, after some of its cases."""

    def __init__(self, folder: Path, cases: int) -> None:
        super().__init__()
        self.folder, self.cases = folder, cases

    def reason(self) -> str:
        return "SIGTERM" if len(list(self.folder.glob("*.nii.gz"))) >= self.cases else ""


def test_a_validation_that_is_told_to_stop_goes_on_with_the_next_case(job) -> None:
    everything = {**job, "settings": {**SMALL, "epochs": 1, "iterations": 1}}
    folder = Path(job["run"]) / "fold_all" / "validation"
    with pytest.raises(Stopped, match="SIGTERM"):
        run(everything, Validating(folder, 2), fold="all")
    first = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.nii.gz")}
    assert len(first) == 2
    assert not (folder / "summary.json").exists()
    run(everything, fold="all")
    assert {name: (folder / name).stat().st_mtime_ns for name in first} == first
    assert len(read_json(folder / "summary.json")["metric_per_case"]) == 3
    newer = max(path.stat().st_mtime_ns for path in folder.iterdir()) + 10**9
    os.utime(folder.parent / "checkpoint_final.pth", ns=(newer, newer))  # another network: everything anew
    (folder / "summary.json").unlink()
    run(everything, fold="all")
    assert all((folder / name).stat().st_mtime_ns > moment for name, moment in first.items())


def test_a_split_that_changed_since_a_fold_was_begun_is_refused(tmp_path) -> None:
    first, other = [{"train": ["a"], "val": ["b"]}], [{"train": ["b"], "val": ["a"]}]
    train._keep_split(tmp_path, first)
    train._keep_split(tmp_path, other)  # nothing was trained yet
    (tmp_path / "fold_0").mkdir()
    (tmp_path / "fold_0" / "checkpoint_latest.pth").touch()
    train._keep_split(tmp_path, other)
    with pytest.raises(TrainingError, match="the dataset's split is another one") as caught:
        train._keep_split(tmp_path, first)
    assert "--restart" in caught.value.hint
    assert read_json(tmp_path / "splits_final.json") == other


def test_a_cascade_is_refused_and_its_first_stage_is_trained(job, prepared, monkeypatch) -> None:
    with pytest.raises(ValueError, match="cascade"):
        SegmentationSettings.model_validate({"configuration": "3d_cascade_fullres"})
    plans = read_json(Path(job["run"]) / "plans.json")
    full = plans["configurations"]["3d_fullres"]
    lower = {**full, "spacing": [1.5] * 3, "data_identifier": "nnUNetPlans_3d_lowres", "patch_size": [4, 16, 16]}
    plans["configurations"]["3d_lowres"] = {**lower, "next_stage": "3d_cascade_fullres"}
    plans["configurations"]["3d_cascade_fullres"] = {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"}
    settings = SegmentationSettings.model_validate(
        {**SMALL, "configuration": "3d_lowres", "patch_size": [8, 32, 32], "epochs": 1, "iterations": 1}
    )
    cases = prepare.RawCases(prepared.folder.parent / "raw" / prepared.folder.name, prepared.dataset_json)
    with contextlib.redirect_stdout(io.StringIO()):
        prepare._preprocess(cases, prepared.folder, plans, "3d_lowres", 1, Progress(io.StringIO()))
    write_json(Path(job["run"]) / "plans.json", prepare.override(plans, settings))
    run({**job, "settings": settings.model_dump()})
    summary = read_json(Path(job["run"]) / "fold_0" / "validation" / "summary.json")
    assert len(summary["metric_per_case"]) == 1


@pytest.mark.parametrize(
    ("settings", "gpus", "message"),
    [
        ({"trackers": ["wandb"]}, 1, "tracker wandb: it is not installed"),
        ({"trainer": "nnUNetTrainerFromNowhere"}, 1, "neither one of nnU-Net's nor in a trainer_class.py"),
        ({"folds": [0, 7]}, 1, "fold 7 does not exist: the split has 1 folds"),
        ({}, 2, "--gpus 2: this would train on cpu"),
    ],
)
def test_what_cannot_be_trained_is_said_before_the_data_are_prepared(job, monkeypatch, settings, gpus, message) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    monkeypatch.setattr(prepare, "prepare", lambda *_: pytest.fail("the data were prepared"))
    wrong = {**job, "settings": {**SMALL, **settings}, "gpus": gpus, "dataset": "none", "cache": job["run"]}
    with pytest.raises(TrainingError, match=message):
        train._train(
            wrong, SegmentationSettings.model_validate(wrong["settings"]), Path(job["run"]), Progress(io.StringIO()),
            Stopping(),
        )  # fmt: skip


def test_a_batch_has_a_patch_for_each_process() -> None:
    train._check_batch(2, 2)
    with pytest.raises(TrainingError, match="--gpus 3: a batch of 2 patches does not split over so many"):
        train._check_batch(3, 2)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_what_goes_wrong_in_another_process_is_told(job) -> None:
    with pytest.raises(TrainingError, match="--gpus 1: this machine has 0"):
        train._train_on_gpus({**job, "cache": job["run"]}, 0, Stopping())
