"""Recipe `lesion`: cut out the cords, then train and validate one fold after the other, each from where it stopped."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from trainers.core import checkpoints
from trainers.core.environment import cpu_count, describe, ready_device, seed_everything
from trainers.core.errors import TrainingError
from trainers.core.files import write_json
from trainers.core.job import alone
from trainers.core.loop import Loop, LoopSettings
from trainers.core.metrics import mean_scores
from trainers.core.optimisers import OptimiserSettings
from trainers.core.progress import Progress
from trainers.core.stopping import Stopping
from trainers.lesion.chain import read_lesions
from trainers.lesion.config import LesionSettings
from trainers.lesion.evaluate import DEFAULT, choose_shown, choose_threshold, heading, lesion_scores, summary
from trainers.lesion.index import Case, from_bids, from_nnunet, read_index
from trainers.lesion.network import LesionNet, begin, build, load, save, write_plans
from trainers.lesion.pictures import Shown, draw_predictions, draw_sheet
from trainers.lesion.prepare import CutCases, fill_store, fit
from trainers.lesion.sliding import predict_volume
from trainers.lesion.task import Held, LesionTask

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trainers.lesion.intensity import Standard

ALL = "all"
FOLDS = 5
SUMMARY = "validation/summary.json"
REPORT = "pretrained.json"
Split = dict[str, list[str]]


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Run a training job; return the folds that were trained now and those that were done before.

    Job keys: dataset (a table, a BIDS tree or an nnU-Net folder), run, cache (folders), settings, splits (or null),
    config and dataset_json (what the run's say), and optionally cords (case: file), pretrained (a checkpoint to
    start from) and max_minutes.
    """
    folder = Path(job["run"])
    with alone(folder), Stopping(job.get("max_minutes"), since=job.get("since")) as stopping:
        return _run(job, folder, Progress(), stopping)


def _run(job: dict[str, Any], folder: Path, progress: Progress, stopping: Stopping) -> dict[str, Any]:
    settings = LesionSettings.model_validate(job["settings"])
    device = ready_device(settings.device)
    progress.say(f"device: {device} ({torch.get_num_threads()} threads)")
    cases = read_cases(Path(job["dataset"]), settings, job.get("cords") or {})
    learning = [case for case in cases if case.split != "test"]
    splits = job.get("splits") or make_splits(learning, settings.seed)
    cut = CutCases(Path(job["cache"]), learning, settings)
    cut.prepare(cpu_count(), progress)
    _draw_sheets(cut, settings, progress)
    write_plans(folder, settings, (learning[0].lesion_values or (1,))[0])
    write_json(folder / "dataset.json", job["dataset_json"])
    write_json(folder / "splits_final.json", splits)
    write_json(folder / "environment.json", describe(device, settings.seed, job["config"]["dataset"]["hash"]))
    write_json(folder / "config.json", job["config"])  # with it the folder is a run
    answer: dict[str, Any] = {"trained": [], "done_before": [], "stopped": ""}
    for fold in settings.folds:
        place = folder / f"fold_{fold}"
        if (place / checkpoints.FINAL).is_file() and (place / SUMMARY).is_file():
            answer["done_before"].append(fold)
            continue
        split = _split(splits, fold, [case.name for case in learning])
        pretrained = Path(job["pretrained"]) if job.get("pretrained") else None
        if reason := _train_fold(place, cut, split, settings, device, progress, stopping, pretrained):
            return {**answer, "stopped": reason}
        answer["trained"].append(fold)
    return answer


def _draw_sheets(cut: CutCases, settings: LesionSettings, progress: Progress) -> None:
    """Draw where the window lies in some of the cases, for somebody to look at before a long training."""
    names = sorted(cut.cases)
    chosen = names[:: max(1, -(-len(names) // settings.sheets))] if settings.sheets else []
    missing = [name for name in chosen if not (cut.folder / "sheets" / f"{name}.png").is_file()]
    if not missing:
        return
    with progress.stage("draw the windows"):
        for name in missing:
            place = cut.place(name)
            draw_sheet(cut.folder / "sheets" / f"{name}.png", cut.cases[name], place, settings.geometry.margin)
    progress.say(f"look at them: {cut.folder / 'sheets'}")


def read_cases(dataset: Path, settings: LesionSettings, cords: dict[str, str]) -> list[Case]:
    """Return the cases of a table, of a folder with one (index.csv), of an nnU-Net folder or of a BIDS tree."""
    if dataset.is_file():
        cases = read_index(dataset)
    elif table := next((dataset / name for name in ("index.csv", "index.json") if (dataset / name).is_file()), None):
        cases = read_index(table)
    elif (dataset / "labelsTr").is_dir():
        cases = from_nnunet(dataset, settings.lesion_label, settings.cord_label)
    else:
        cases = from_bids(dataset)
    return [with_cord(case, cords.get(case.name)) for case in cases]


def with_cord(case: Case, cord: str | None) -> Case:
    """Return the case with another file for its cord, where one is given."""
    return Case(**{**vars(case), "cord": Path(cord), "cord_values": None}) if cord else case


def make_splits(cases: list[Case], seed: int) -> list[Split]:
    """Return the table's own split, else five folds by subject (fewer with fewer subjects); the seed decides which."""
    if any(case.split for case in cases):
        return [{part: sorted(c.name for c in cases if c.split == part) for part in ("train", "val")}]
    subjects = sorted({case.subject for case in cases})
    order = [subjects[index] for index in np.random.default_rng(seed).permutation(len(subjects))]
    count = min(FOLDS, len(order))
    if count < 2:  # noqa: PLR2004 - one subject leaves nobody to validate on
        raise TrainingError("all cases are of one subject: nobody is left to validate on", hint='--set folds=["all"]')
    folds = []
    for fold in range(count):
        held = set(order[fold::count])
        parts = {"train": [c for c in cases if c.subject not in held], "val": [c for c in cases if c.subject in held]}
        folds.append({part: sorted(case.name for case in chosen) for part, chosen in parts.items()})
    return folds


def _split(splits: list[Split], fold: int | str, names: list[str]) -> Split:
    if fold == ALL:
        return {"train": sorted(names), "val": []}
    if int(fold) >= len(splits):
        raise TrainingError(f"fold {fold} does not exist: the split has {len(splits)} folds, 0 to {len(splits) - 1}")
    split = splits[int(fold)]
    if unknown := sorted({*split["train"], *split["val"]} - set(names)):
        raise TrainingError(f"fold {fold}: the split names {unknown[0]}, which is no case of the dataset")
    return split


def _train_fold(
    place: Path, cut: CutCases, split: Split, settings: LesionSettings, device: torch.device, progress: Progress,
    stopping: Stopping, pretrained: Path | None,
) -> str:  # fmt: skip
    """Train a fold from its last checkpoint on and validate it; return why it stopped before its end, else ""."""
    if not any(cut.has_lesion(name) for name in split["train"]):
        raise TrainingError(f"{place.name}: no training case has a lesion", hint="look at the lesion masks")
    place.mkdir(parents=True, exist_ok=True)
    standard = fit(cut, split["train"], settings)
    store = fill_store(cut, split["train"], standard, settings, cpu_count(), progress)
    if not (place / checkpoints.FINAL).is_file():
        module = first_module(settings, place, progress, pretrained)
        held = [_held(cut, name, standard) for name in split["val"]]
        task = LesionTask(module, settings, store, split["train"], held, device=device)
        loop = Loop(task, loop_settings(settings), place, device=device)
        with progress.stage(f"train {place.name}"):
            outcome = loop.run(progress, stopping)
        if outcome.stopped:
            return outcome.stopped
        trained = LesionNet(module=loop.weights.eval(), settings=settings, standard=standard, threshold=DEFAULT)
        with progress.stage(f"validate {place.name}"), torch.no_grad():
            _finish(place, trained, cut, split["val"], device)
    elif not (place / SUMMARY).is_file():
        _finish(place, load(place.parent, fold_of(place), device), cut, split["val"], device)
    return ""


def fold_of(place: Path) -> str:
    """Return the fold that a folder is of."""
    return place.name.removeprefix("fold_")


def first_module(settings: LesionSettings, place: Path, progress: Progress, pretrained: Path | None) -> torch.nn.Module:
    """Return the net to begin with; its weights depend on the seed and the fold, or come from a checkpoint.

    Which weights were taken is told, and written to the fold's folder.
    """
    seed_everything(settings.seed + sum(place.name.encode()))
    module = build(settings)
    if pretrained is not None:
        report = begin(module, settings, pretrained)
        progress.say(f"starts from {pretrained.name}: {report.summary}")
        write_json(place / REPORT, asdict(report))
    return module


def loop_settings(settings: LesionSettings) -> LoopSettings:
    """Return what the loop needs of the settings."""
    optimiser = OptimiserSettings.model_validate({
        "name": settings.optimiser, "lr": settings.lr, "schedule": settings.schedule, "warmup": 1,
    })  # fmt: skip
    same = ("epochs", "iterations", "precision", "seed", "checkpoint_minutes", "trackers")
    wanted = {key: getattr(settings, key) for key in same}
    return LoopSettings.model_validate({**wanted, "ema": settings.ema or None, "optimiser": optimiser})


def _held(cut: CutCases, name: str, standard: Standard) -> Held:
    case = cut.read(name)
    image = standard.apply(case.image, case.tissue, cut.cases[name].contrast)
    return Held(image, case.lesion, case.place.work.voxel_mm3 / 1000)


def _finish(place: Path, net: LesionNet, cut: CutCases, names: list[str], device: torch.device) -> None:
    """Choose the threshold on the validation cases' own grids, and write the final checkpoint and what it gives."""
    found: dict[str, NDArray[np.float16]] = {}  # half as many bytes: there may be hundreds of cases

    def on_image(name: str) -> tuple[NDArray[np.float32], NDArray[np.bool_], tuple[float, float, float]]:
        where = cut.place(name)
        return where.paste(found[name].astype(np.float32)), read_lesions(cut.cases[name], where.native), where.spacing

    for name in names:
        held = _held(cut, name, net.standard)
        found[name] = predict_volume(net.module, held.image, net.settings, device).astype(np.float16)
    threshold, means = choose_threshold(on_image(name)[:2] for name in names)
    save(place.parent, fold_of(place), LesionNet(**{**vars(net), "threshold": threshold}))
    scores = {}
    for name in names:
        probability, truth, spacing = on_image(name)
        scores[name] = lesion_scores(probability >= threshold, truth, spacing)
    if shown := choose_shown(names, net.settings.shown):
        held_cases = {name: _held(cut, name, net.standard) for name in shown}
        rows = [
            Shown(f"{name}: {heading(scores[name])}", held.image, held.lesion, found[name] >= threshold)
            for name, held in held_cases.items()
        ]
        drawn = place / "validation" / "predictions.png"
        draw_predictions(drawn, rows, net.settings.window, net.settings.geometry.spacing)
    mean = mean_scores({name: {"lesion": values} for name, values in scores.items()})
    write_json(
        place / SUMMARY,
        {
            "threshold": threshold, "dice_by_threshold": means, "cases": scores, "mean": mean.get("lesion", {}),
            "summary": summary(scores),
        },
    )  # fmt: skip
