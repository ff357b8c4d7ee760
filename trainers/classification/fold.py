"""One fold of a classifier: built, trained in one process or in several, and judged on the cases that it held out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from threadpoolctl import threadpool_limits

from trainers.classification.folds import ALL
from trainers.classification.network import Classifier, probabilities, save_final
from trainers.classification.preprocess import load
from trainers.classification.task import ClassificationTask
from trainers.classification.validation import Judged, report
from trainers.core import checkpoints
from trainers.core.distributed import Ranks
from trainers.core.environment import seed_everything
from trainers.core.errors import TrainingError
from trainers.core.files import write_json
from trainers.core.loop import Loop, LoopSettings
from trainers.core.optimisers import OptimiserSettings
from trainers.core.spawning import in_processes, share

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from trainers.classification.config import ClassificationSettings
    from trainers.classification.dataset import Case
    from trainers.classification.plan import Plan
    from trainers.core.progress import Progress
    from trainers.core.stopping import Stopping

VALIDATION = "validation.json"


@dataclass(frozen=True, kw_only=True)
class Fold:
    """What a process needs to train a fold."""

    number: int | str
    folder: Path  # of the fold, in that of its run
    plan: Plan
    settings: ClassificationSettings  # resolved
    store: Path  # of the preprocessed cases
    training: Sequence[Case]
    validation: Sequence[Case]
    pretrained: Path | None = None  # checkpoint to start from

    @property
    def finished(self) -> bool:
        """Whether it is trained to its end."""
        return (self.folder / checkpoints.FINAL).is_file()

    @property
    def judged(self) -> bool:
        """Whether its held-out cases are judged."""
        return (self.folder / VALIDATION).is_file()


def train_fold(fold: Fold, processes: int, device: torch.device, progress: Progress, stopping: Stopping) -> str:
    """Train a fold from its last checkpoint on; return why it stopped before its end, "" where it did not.

    Raises `TrainingError` where a step has fewer cases than there are processes.
    """
    if processes == 1:
        return _train(fold, device, progress, stopping, Ranks())
    if processes > fold.plan.batch_size:
        raise TrainingError(
            f"a step of {fold.plan.batch_size} cases does not split over {processes} processes",
            hint="fewer GPUs, or --set batch_size=N; folds can be trained side by side: --fold",
        )
    in_processes(processes, _train_share, (fold, device), stopping)
    return "" if fold.finished else stopping.reason() or "one of its processes"


def _train_share(fold: Fold, device: torch.device, stopping: Stopping) -> None:
    """Train a fold as one of several processes."""
    with share(device) as (ranks, own, progress):
        _train(fold, own, progress, stopping, ranks)


def _train(fold: Fold, device: torch.device, progress: Progress, stopping: Stopping, ranks: Ranks) -> str:
    task = build(fold, device, ranks)
    if fold.pretrained:
        from trainers.classification.pretrained import Beginning  # with the library of ResEnc, which takes a second

        Beginning.of(fold.pretrained, fold.settings).start(task.module, fold.folder, progress)
    fold.folder.mkdir(parents=True, exist_ok=True)
    loop = Loop(task, loop_settings(fold.settings), fold.folder, device=device, ranks=ranks)
    with progress.stage(f"train {fold.folder.name}"), threadpool_limits(torch.get_num_threads()):
        outcome = loop.run(progress, stopping)
    if not outcome.stopped and ranks.first:
        save_final(fold.folder / checkpoints.FINAL, loop.weights)
        for name in (checkpoints.LATEST, checkpoints.PREVIOUS):
            (fold.folder / name).unlink(missing_ok=True)
    return outcome.stopped


def build(fold: Fold, device: torch.device, ranks: Ranks) -> ClassificationTask:
    """Return the untrained task of a fold; the weights depend on the seed and the fold."""
    settings = fold.settings
    seed_everything(settings.seed + (0 if fold.number == ALL else int(fold.number) + 1))
    return ClassificationTask(
        fold.plan, settings, fold.store, fold.training, fold.validation, device=device, ranks=ranks
    )


def loop_settings(settings: ClassificationSettings) -> LoopSettings:
    """Return what the loop needs of resolved settings."""
    optimiser = OptimiserSettings.model_validate({
        "name": settings.optimiser, "lr": settings.lr, "momentum": settings.momentum,
        "weight_decay": settings.weight_decay, "schedule": settings.schedule, "warmup": settings.warmup,
    })  # fmt: skip
    same = ("epochs", "iterations", "precision", "seed", "checkpoint_minutes", "trackers")
    return LoopSettings.model_validate({**{key: getattr(settings, key) for key in same}, "optimiser": optimiser})


def judge_fold(fold: Fold, device: torch.device) -> None:
    """Judge the cases that a fold held out, by the weights on disk, and write what was found."""
    number = str(fold.number)
    model = Classifier.load(fold.folder.parent, [number], device)
    judged = [
        Judged(
            name=case.name,
            fold=fold.number,
            group=case.group,
            targets=case.targets,
            probabilities=probabilities(model.nets[number], load(fold.store, case.name), model.plan, device),
        )
        for case in fold.validation
    ]
    write_json(fold.folder / VALIDATION, report(model.plan, judged))
