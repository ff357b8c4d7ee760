"""Recipe `classification`: plan and preprocess, then train and validate one fold after the other."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from threadpoolctl import threadpool_limits

from trainers.classification import figures
from trainers.classification.config import ClassificationSettings
from trainers.classification.dataset import read_dataset
from trainers.classification.folds import ALL, cases_of, make_splits
from trainers.classification.nets import planned_net
from trainers.classification.network import Classifier, probabilities, save_final
from trainers.classification.plan import Plan, planned_batch, read_plan
from trainers.classification.preprocess import load, plan_dataset, preprocess_dataset
from trainers.classification.task import ClassificationTask
from trainers.classification.validation import Judged, judged_cases, report
from trainers.core import checkpoints
from trainers.core.environment import cpu_count, describe, ready_device, seed_everything
from trainers.core.errors import TrainingError
from trainers.core.files import read_json, write_json
from trainers.core.job import alone
from trainers.core.loop import Loop, LoopSettings
from trainers.core.optimisers import OptimiserSettings
from trainers.core.progress import Progress
from trainers.core.stopping import Stopping

if TYPE_CHECKING:
    from trainers.classification.dataset import Dataset
    from trainers.classification.plan import PlannedNet
    from trainers.classification.pretrained import Beginning
    from trainers.core.distributed import Ranks

VALIDATION = "validation.json"
# Settings that the plan and the preprocessed cases depend on.
PLANNED_FROM = ("image_size", "max_voxels", "spacing", "roi_margin", "mask_outside_roi", "batch_size", "memory_gib")


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Run a training job; return the folds that were trained now and those that were done before.

    Job keys: dataset, run, cache (folders), settings, splits (or null), config (what the run's config.json says),
    dataset_json (what the run's says), pretrained (checkpoint to start from, or null), max_minutes, validation_only.
    """
    run_folder = Path(job["run"])
    with alone(run_folder), Stopping(job.get("max_minutes")) as stopping:
        return _run(job, run_folder, Progress(), stopping)


def _run(job: dict[str, Any], run_folder: Path, progress: Progress, stopping: Stopping) -> dict[str, Any]:
    settings = ClassificationSettings.model_validate(job["settings"]).resolved()
    device = ready_device(settings.device)
    progress.say(f"device: {device} ({torch.get_num_threads()} threads)")
    dataset = read_dataset(Path(job["dataset"]))
    beginning = _beginning(job.get("pretrained"), settings)
    net = beginning.net if beginning else planned_net(settings)
    plan, store = prepare(dataset, Path(job["cache"]), settings, progress, net)
    splits = job["splits"] or make_splits(dataset, settings.num_folds, settings.seed)
    write_json(run_folder / "plans.json", plan.model_dump(mode="json"))
    write_json(run_folder / "dataset.json", job["dataset_json"])
    write_json(run_folder / "splits_final.json", splits)
    write_json(run_folder / "environment.json", describe(device, settings.seed, job["config"]["dataset"]["hash"]))
    write_json(run_folder / "config.json", job["config"])  # with it the folder is a run
    answer: dict[str, Any] = {"trained": [], "done_before": [], "stopped": ""}
    for fold in settings.folds:
        folder = run_folder / f"fold_{fold}"
        training, validation = cases_of(dataset, splits, fold)
        done = (folder / checkpoints.FINAL).is_file()
        if not done:
            if job.get("validation_only"):
                raise TrainingError(f"{folder}: not trained to its end", hint="mreg train, without --validation-only")
            task = build(plan, settings, store, fold, (training, validation), device)
            if beginning:
                beginning.start(task.module, folder, progress)
            reason = train_fold(task, settings, folder, device, progress, stopping)
            if reason:
                return {**answer, "stopped": reason}
        answer["done_before" if done else "trained"].append(fold)
        if fold != ALL and (job.get("validation_only") or not (folder / VALIDATION).is_file()):
            validate_fold(run_folder, fold, dataset, splits, store, device)
    pool(run_folder, dataset, settings.seed)
    return answer


def _beginning(checkpoint: str | None, settings: ClassificationSettings) -> Beginning | None:
    if not checkpoint:
        return None
    from trainers.classification.pretrained import Beginning  # with the library of ResEnc, which takes a second

    return Beginning.of(Path(checkpoint), settings)


def prepare(
    dataset: Dataset, cache: Path, settings: ClassificationSettings, progress: Progress, net: PlannedNet | None = None
) -> tuple[Plan, Path]:
    """Plan and preprocess what is not in the cache yet; return the plan and the folder of the cases."""
    relevant = {key: value for key, value in settings.model_dump(mode="json").items() if key in PLANNED_FROM}
    relevant |= {} if settings.is_i3d else {"transposed": False}
    name = hashlib.sha256(json.dumps(relevant, sort_keys=True).encode()).hexdigest()[:8]
    folder = cache / f"{dataset.folder.name}-{name}"
    threads = cpu_count()
    if not (folder / "plans.json").is_file():
        plan = plan_dataset(dataset, settings, threads, progress)
        write_json(folder / "plans.json", plan.model_dump(mode="json"))
    plan = with_net(read_plan(folder), net or planned_net(settings), settings, len(dataset.cases))
    size, spacing = (" x ".join(f"{n:.3g}" for n in values) for values in (plan.image_size, plan.spacing))
    progress.say(f"plan: {size} voxels of {spacing} mm, {plan.batch_size} cases a step")
    preprocess_dataset(dataset, plan, folder, threads, progress)
    return plan, folder


def with_net(plan: Plan, net: PlannedNet, settings: ClassificationSettings, cases: int) -> Plan:
    """Return the plan with what no preprocessed case depends on: the net, and the cases a step that fit with it."""
    planned = planned_batch(math.prod(plan.image_size), settings.memory_gib, cases, net.encoder)
    return plan.model_copy(update={"net": net, "batch_size": settings.batch_size or planned})


def build(
    plan: Plan, settings: ClassificationSettings, store: Path, fold: int | str, cases: tuple[Any, Any],
    device: torch.device, ranks: Ranks | None = None,
) -> ClassificationTask:  # fmt: skip
    """Return the untrained task of a fold; the weights depend on the seed and the fold."""
    seed_everything(settings.seed + (0 if fold == ALL else int(fold) + 1))
    training, validation = cases
    return ClassificationTask(plan, settings, store, training, validation, device=device, ranks=ranks)


def train_fold(
    task: ClassificationTask, settings: ClassificationSettings, folder: Path, device: torch.device,
    progress: Progress, stopping: Stopping, ranks: Ranks | None = None,
) -> str:  # fmt: skip
    """Train one fold from its last checkpoint on; return why it stopped before its end, "" where it did not."""
    folder.mkdir(parents=True, exist_ok=True)
    loop = Loop(task, loop_settings(settings), folder, device=device, ranks=ranks)
    with progress.stage(f"train {folder.name}"), threadpool_limits(torch.get_num_threads()):
        outcome = loop.run(progress, stopping)
    if outcome.stopped:
        return outcome.stopped
    if loop.ranks.first:
        save_final(folder / checkpoints.FINAL, loop.weights)
        for name in (checkpoints.LATEST, checkpoints.PREVIOUS):
            (folder / name).unlink(missing_ok=True)
    return ""


def loop_settings(settings: ClassificationSettings) -> LoopSettings:
    """Return what the loop needs of resolved settings."""
    optimiser = OptimiserSettings.model_validate({
        "name": settings.optimiser, "lr": settings.lr, "momentum": settings.momentum,
        "weight_decay": settings.weight_decay, "schedule": settings.schedule, "warmup": settings.warmup,
    })  # fmt: skip
    same = ("epochs", "iterations", "precision", "seed", "checkpoint_minutes", "trackers")
    return LoopSettings.model_validate({**{key: getattr(settings, key) for key in same}, "optimiser": optimiser})


def validate_fold(
    run_folder: Path, fold: int | str, dataset: Dataset, splits: list[Any], store: Path, device: torch.device
) -> None:
    """Judge the cases that a fold held out, by the weights on disk, and write what was found."""
    model = Classifier.load(run_folder, [str(fold)], device)
    _, cases = cases_of(dataset, splits, fold)
    judged = [
        Judged(
            name=case.name,
            fold=fold,
            group=case.group,
            targets=case.targets,
            probabilities=probabilities(model.nets[str(fold)], load(store, case.name), model.plan, device),
        )
        for case in cases
    ]
    write_json(run_folder / f"fold_{fold}" / VALIDATION, report(model.plan, judged))


def pool(run_folder: Path, dataset: Dataset, seed: int) -> None:
    """Pool the held-out cases of all folds that are validated, with intervals and figures."""
    plan = read_plan(run_folder)
    groups = {case.name: case.group for case in dataset.cases}
    judged: dict[str, Judged] = {}
    for path in sorted(run_folder.glob(f"fold_*/{VALIDATION}")):
        for case in judged_cases(read_json(path), plan, groups):
            judged.setdefault(case.name, case)
    if not judged:
        return
    document = report(plan, list(judged.values()), seed=seed)
    write_json(run_folder / VALIDATION, document)
    figures.draw(run_folder, plan, list(judged.values()), document)
