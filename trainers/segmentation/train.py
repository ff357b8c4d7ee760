"""Recipe `nnunet`: prepare the data, then train and validate one fold after the other, each from where it stopped."""

from __future__ import annotations

import os
import sys
import warnings
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainers.core.errors import TrainingError
from trainers.core.files import read_json, write_json
from trainers.core.job import alone
from trainers.core.progress import Progress
from trainers.core.stopping import Stopped, Stopping
from trainers.segmentation.config import SegmentationSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

    from trainers.segmentation.trainer import Place


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Run a training job; return the folds that were trained now and those that were done before.

    Job keys: dataset, run, cache, log (folders and a file), settings, splits, config (what the run's config.json
    says), trainer_file (or null), gpus, pretrained (a checkpoint, or null), and perhaps max_minutes and since (the
    moment of time.monotonic() from which they count).
    """
    settings = SegmentationSettings.model_validate(job["settings"])
    run_folder = Path(job["run"])
    progress = Progress()
    stopping = Stopping(job.get("max_minutes"), since=job.get("since"))  # preparing the data takes of that time
    with alone(run_folder), _talk_to(run_folder / "train.log"):
        return _train(job, settings, run_folder, progress, stopping)


def _train(
    job: dict[str, Any], settings: SegmentationSettings, run_folder: Path, progress: Progress, stopping: Stopping
) -> dict[str, Any]:
    workers = _set_environment(Path(job["cache"]), settings)
    import torch

    from trainers.core.environment import cpu_count, describe, ready_device
    from trainers.segmentation.prepare import prepare

    device = ready_device(settings.device)
    progress.say(f"device: {device} ({torch.get_num_threads()} threads, {workers} loader threads)")
    if settings.compile and device.type != "cuda":
        progress.say(f"warning: compile = true changes nothing on {device.type}: nnU-Net compiles on CUDA alone")
    beginning = _beginning(job, settings)
    _check(job, settings, device, run_folder)
    prepared = prepare(Path(job["dataset"]), Path(job["cache"]), settings, cpu_count(), progress)
    _check_batch(job["gpus"], prepared.plans["configurations"][settings.configuration]["batch_size"])
    write_json(run_folder / "plans.json", beginning.plans(prepared.plans) if beginning else prepared.plans)
    _keep_split(run_folder, job["splits"])
    write_json(run_folder / "environment.json", describe(device, settings.seed, job["config"]["dataset"]["hash"]))
    # config.json comes last: with it the folder is a run
    trainer = beginning.trainer if beginning else settings.trainer
    write_json(run_folder / "config.json", {**job["config"], "trainer": trainer})
    answer: dict[str, Any] = {"trained": [], "done_before": [], "stopped": ""}
    with stopping:
        for fold in settings.folds:
            if _finished(run_folder, fold):
                answer["done_before"].append(fold)
                continue
            try:
                if job["gpus"] > 1:
                    _train_on_gpus(job, fold, stopping)
                else:
                    _train_fold(job, fold, device, progress, stopping)
            except Stopped as stopped:
                return {**answer, "stopped": str(stopped)}
            answer["trained"].append(fold)
    return answer


def _keep_split(run_folder: Path, splits: list[dict[str, list[str]]]) -> None:
    """Write the split that a run is trained with; refuse another one where a fold of it was begun."""
    path = run_folder / "splits_final.json"
    if path.is_file() and any(run_folder.glob("fold_*/*.pth")) and read_json(path) != splits:
        raise TrainingError(
            f"{path}: the dataset's split is another one since this run was begun",
            hint="mreg train --restart trains with the new one; or bring the dataset's splits_final.json back",
        )
    write_json(path, splits)


def _train_fold(
    job: dict[str, Any], fold: int | str, device: torch.device, progress: Progress, stopping: Stopping
) -> None:
    """Train one fold from its last checkpoint on, then validate it; raise `Stopped` when it must end before."""
    from trainers.core import checkpoints
    from trainers.core.environment import is_out_of_memory, seed_everything
    from trainers.core.trackers import keep_lines
    from trainers.segmentation.trainer import Place

    settings = SegmentationSettings.model_validate(job["settings"])
    place = Place(
        run=Path(job["run"]), fold=fold, splits=job["splits"], seed=settings.seed,
        checkpoint_seconds=settings.checkpoint_minutes * 60, progress=progress,
        precision=settings.precision, threads=int(os.environ["nnUNet_n_proc_DA"]), trackers=settings.trackers,
        stopping=stopping, beginning=_beginning(job, settings),
    )  # fmt: skip
    final = place.folder / checkpoints.FINAL
    seed_everything(settings.seed)
    trainer = _build(job, settings, place, device)
    try:
        trainer.initialize()
        if final.is_file():
            _load(trainer, final)
        else:
            latest = checkpoints.newest(place.folder, progress)
            if latest:
                _load(trainer, latest)
                progress.say(f"fold {fold}: continues at epoch {trainer.current_epoch + 1} of {trainer.num_epochs}")
            keep_lines(place.folder, trainer.current_epoch)
            with progress.stage(f"train fold {fold}"):
                trainer.run_training()
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        plan = trainer.configuration_manager
        patch = " x ".join(str(size) for size in plan.patch_size)
        raise TrainingError(
            f"fold {fold}: {device} has not enough memory for a batch of {plan.batch_size} patches of {patch} voxels",
            hint="--set batch_size=… or --set patch_size=… smaller, or another planner; nothing is lost",
        ) from error
    with progress.stage(f"validate fold {fold}"):
        trainer.perform_actual_validation()


def _beginning(job: dict[str, Any], settings: SegmentationSettings) -> Any:
    """Return the pre-trained encoder that the job names (`pretrained`, a file), None where it names none."""
    if not job.get("pretrained"):
        return None
    from trainers.segmentation.pretrained import Beginning

    beginning = Beginning.of(Path(job["pretrained"]), settings)
    if job["gpus"] > 1 and settings.fine_tuning in {"sawtooth", "frozen"} and not settings.from_scratch:
        raise TrainingError(
            f"fine_tuning = {settings.fine_tuning!r} on {job['gpus']} GPUs: that needs every gradient",
            hint='one GPU, or fine_tuning = "warmup"',
        )
    return beginning


def _build(job: dict[str, Any], settings: SegmentationSettings, place: Place, device: torch.device) -> Any:
    """Make the trainer and apply the settings that nnU-Net keeps as attributes."""
    from trainers.segmentation.trainer import wrap
    from trainers.segmentation.trainer_classes import find_trainer_class

    file = Path(job["trainer_file"]) if job["trainer_file"] else None
    name = place.beginning.trainer if place.beginning else settings.trainer
    trainer_class = wrap(find_trainer_class(name, file), place)
    plans = read_json(place.run / "plans.json")
    plans["continue_training"] = False  # the constructor takes this key out of the plans
    dataset_json = job["dataset_json"]
    trainer = trainer_class(plans, settings.configuration, place.fold, dataset_json, device)
    for attribute, value in (
        ("num_epochs", settings.epochs),
        ("num_iterations_per_epoch", settings.iterations),
        ("num_val_iterations_per_epoch", settings.val_iterations),
        ("initial_lr", settings.initial_lr),
    ):
        if value is not None:
            setattr(trainer, attribute, value)
    if trainer.disable_checkpointing:
        raise TrainingError(f"trainer {name} writes no checkpoints: nothing would be left of its training")
    return trainer


def _load(trainer: Any, checkpoint: Path) -> None:
    """Load a checkpoint of this run, after a read that executes nothing has gone through."""
    from trainers.segmentation.checkpoint import read_checkpoint

    read_checkpoint(checkpoint)
    trainer.load_checkpoint(str(checkpoint))


def _set_environment(cache: Path, settings: SegmentationSettings) -> int:
    """Point nnU-Net's variables at our folders, before it is imported; return the number of loader threads."""
    from trainers.core.environment import choose_device, cpu_count

    workers = settings.workers
    if workers is None:
        # On a CPU the loaders only take cores from the network; without them a training is also repeatable.
        workers = 0 if choose_device(settings.device).type == "cpu" else min(12, cpu_count())
    os.environ.update(
        nnUNet_raw=str(cache / "raw"),
        nnUNet_preprocessed=str(cache),
        nnUNet_results=str(cache / "unused"),
        nnUNet_n_proc_DA=str(workers),
        nnUNet_def_n_proc=str(cpu_count()),
    )
    if settings.compile is not None:
        os.environ["nnUNet_compile"] = str(settings.compile)
    return workers


@contextmanager
def _talk_to(log: Path) -> Iterator[None]:
    """Send what nnU-Net prints, and what libraries warn of, to the run's log: stdout is the command's answer."""
    with log.open("a", encoding="utf-8", buffering=1) as file:
        sys.stdout.flush()
        stdout = os.dup(1)
        os.dup2(file.fileno(), 1)
        warnings.showwarning = lambda message, category, filename, lineno, *_: print(
            warnings.formatwarning(message, category, filename, lineno), file=file
        )
        try:
            yield
        finally:
            sys.stdout.flush()
            os.dup2(stdout, 1)
            os.close(stdout)


def _train_on_gpus(job: dict[str, Any], fold: int | str, stopping: Stopping) -> None:
    """Train one fold in a process a GPU; what this process is told, they are told."""
    from trainers.core import checkpoints
    from trainers.core.spawning import in_processes

    in_processes(job["gpus"], _share, (job, fold), stopping)
    if not (Path(job["run"]) / f"fold_{fold}" / checkpoints.FINAL).is_file():
        raise Stopped(stopping.reason() or "one of its processes")


def _share(job: dict[str, Any], fold: int | str, stopping: Stopping) -> None:
    """Train as one process of nnU-Net's own data-parallel training, on its own GPU."""
    import torch

    from trainers.core.spawning import share

    _set_environment(Path(job["cache"]), SegmentationSettings.model_validate(job["settings"]))
    with share(torch.device("cuda")) as (_, device, progress), suppress(Stopped):
        _train_fold(job, fold, device, progress, stopping)


def _check(job: dict[str, Any], settings: SegmentationSettings, device: torch.device, run_folder: Path) -> None:
    """Refuse what cannot be trained, before the data are prepared, which may take hours.

    A job on several GPUs whose folds are all trained may run again anywhere: a scheduler repeats what it lost sight of.
    """
    from trainers.core import trackers
    from trainers.segmentation.trainer_classes import find_trainer_class

    trackers.check(settings.trackers)
    if not job.get("pretrained"):
        find_trainer_class(settings.trainer, Path(job["trainer_file"]) if job["trainer_file"] else None)
    count = len(job["splits"])
    for fold in settings.folds:
        if fold != "all" and int(fold) >= count:
            raise TrainingError(f"fold {fold} does not exist: the split has {count} folds, 0 to {count - 1}")
    gpus = job["gpus"]
    left = [fold for fold in settings.folds if not _finished(run_folder, fold)]
    if left and gpus > 1 and device.type != "cuda":
        raise TrainingError(f"--gpus {gpus}: this would train on {device.type}, and nnU-Net shares work on CUDA alone")


def _finished(run_folder: Path, fold: int | str) -> bool:
    """Whether a fold is trained and validated."""
    folder = run_folder / f"fold_{fold}"
    return (folder / "checkpoint_final.pth").is_file() and (folder / "validation" / "summary.json").is_file()


def _check_batch(gpus: int, batch_size: int) -> None:
    """Refuse more processes than a batch has patches."""
    if gpus > batch_size:
        raise TrainingError(
            f"--gpus {gpus}: a batch of {batch_size} patches does not split over so many",
            hint=f"--gpus {batch_size}, or a larger --set batch_size=…",
        )
