"""Recipe `classification`: plan and preprocess, then train and validate one fold after the other."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from trainers.classification import figures
from trainers.classification.config import ClassificationSettings
from trainers.classification.dataset import read_dataset
from trainers.classification.fold import VALIDATION, Fold, judge_fold, train_fold
from trainers.classification.folds import cases_of, make_splits
from trainers.classification.nets import planned_net
from trainers.classification.plan import Plan, planned_batch, read_plan
from trainers.classification.preprocess import plan_dataset, preprocess_dataset
from trainers.classification.validation import Judged, judged_cases, report
from trainers.core.environment import cpu_count, describe, ready_device
from trainers.core.errors import TrainingError
from trainers.core.files import read_json, write_json
from trainers.core.job import alone
from trainers.core.progress import Progress
from trainers.core.stopping import Stopping

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trainers.classification.dataset import Dataset
    from trainers.classification.plan import PlannedNet

# Settings that the plan and the preprocessed cases depend on.
PLANNED_FROM = ("image_size", "max_voxels", "spacing", "roi_margin", "mask_outside_roi", "batch_size", "memory_gib")


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Run a training job; return the folds that were trained now and those that were done before.

    Job keys: dataset, run, cache (folders), settings, splits (or null), config (what the run's config.json says),
    dataset_json (what the run's says), pretrained (checkpoint to start from, or null), gpus, max_minutes,
    validation_only.
    """
    run_folder = Path(job["run"])
    with alone(run_folder), Stopping(job.get("max_minutes"), since=job.get("since")) as stopping:
        return _run(job, run_folder, Progress(), stopping)


def _run(job: dict[str, Any], run_folder: Path, progress: Progress, stopping: Stopping) -> dict[str, Any]:
    settings = ClassificationSettings.model_validate(job["settings"]).resolved()
    device = ready_device(settings.device)
    progress.say(f"device: {device} ({torch.get_num_threads()} threads)")
    dataset = read_dataset(Path(job["dataset"]))
    pretrained = Path(job["pretrained"]) if job.get("pretrained") else None
    plan, store = prepare(dataset, Path(job["cache"]), settings, progress, _net(pretrained, settings))
    splits = job["splits"] or make_splits(dataset, settings.num_folds, settings.seed)
    write_json(run_folder / "plans.json", plan.model_dump(mode="json"))
    write_json(run_folder / "dataset.json", job["dataset_json"])
    write_json(run_folder / "splits_final.json", splits)
    write_json(run_folder / "environment.json", describe(device, settings.seed, job["config"]["dataset"]["hash"]))
    write_json(run_folder / "config.json", job["config"])  # with it the folder is a run
    folds = [
        Fold(
            number=number, folder=run_folder / f"fold_{number}", plan=plan, settings=settings, store=store,
            training=training, validation=validation, pretrained=pretrained,
        )
        for number in settings.folds
        for training, validation in [cases_of(dataset, splits, number)]
    ]  # fmt: skip
    answer = _each(folds, job, device, progress, stopping)
    if not answer["stopped"]:
        pool(run_folder, dataset, settings.seed)
    return answer


def _each(
    folds: Sequence[Fold], job: dict[str, Any], device: torch.device, progress: Progress, stopping: Stopping
) -> dict[str, Any]:
    """Train and judge what is not done yet; return the answer of the job."""
    answer: dict[str, Any] = {"trained": [], "done_before": [], "stopped": ""}
    again = job.get("validation_only", False)
    for fold in folds:
        if fold.finished:
            answer["done_before"].append(fold.number)
        elif again:
            raise TrainingError(f"{fold.folder}: not trained to its end", hint="mreg train, without --validation-only")
        elif reason := train_fold(fold, job.get("gpus", 1), device, progress, stopping):
            return {**answer, "stopped": reason}
        else:
            answer["trained"].append(fold.number)
        if fold.validation and (again or not fold.judged):
            judge_fold(fold, device)
    return answer


def _net(pretrained: Path | None, settings: ClassificationSettings) -> PlannedNet:
    if not pretrained:
        return planned_net(settings)
    from trainers.classification.pretrained import Beginning  # with the library of ResEnc, which takes a second

    return Beginning.of(pretrained, settings).net


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
