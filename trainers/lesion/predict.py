"""Runs trained nets on images, each result in its image's own grid, and measures them where there are lesion masks."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from trainers.core.environment import choose_device, peak_memory
from trainers.core.errors import TrainingError
from trainers.core.metrics import mean_scores
from trainers.core.progress import Progress
from trainers.data.nifti import open_image, write_labels
from trainers.lesion.chain import find_line, prepare, read_lesions
from trainers.lesion.evaluate import choose_shown, heading, lesion_scores, summary
from trainers.lesion.index import Case, contrast_of
from trainers.lesion.network import LesionNet, load
from trainers.lesion.sliding import predict_volume

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trainers.core.metrics import Scores
    from trainers.lesion.chain import Prepared
    from trainers.lesion.config import LesionSettings

LABEL = "lesion"


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Run a prediction job; return the `files` that were written, and with references `cases` and `mean`.

    Job keys: model (folder), device, mirror, half, optionally threads, figure (a PNG to draw of cases with a
    reference), and cases: a list of name, images, folds and optionally cord (a mask or centreline), output, reference,
    and lesion_values and cord_values, the labels that count in the reference, which is the cord's mask too where none
    is given. With references the answer has a `summary` over the cases and the `threshold`, the folds' mean, too.
    """
    device = choose_device(job["device"])
    if device.type != "cpu" or job.get("threads"):  # else a CPU keeps torch's own number, which follows OMP_NUM_THREADS
        torch.set_num_threads(job.get("threads") or 1)
    progress, folder = Progress(), Path(job["model"])
    folds = sorted({str(fold) for entry in job["cases"] for fold in entry["folds"]})
    nets = {fold: load(folder, fold, device, half=job["half"]) for fold in folds}
    scores: dict[str, dict[str, Scores]] = {}
    most = next(iter(nets.values())).settings.shown if job.get("figure") else 0
    shown = choose_shown([entry["name"] for entry in job["cases"] if entry.get("reference")], most)
    rows: list[tuple[Any, ...]] = []
    for entry in job["cases"]:
        start = time.monotonic()
        case, used = _case(entry), [nets[str(fold)] for fold in entry["folds"]]
        probability, prepared = predict(case, used, device, mirror=job["mirror"])
        place, threshold = prepared.place, float(np.mean([net.threshold for net in used]))
        found = probability >= threshold
        if case.lesion:
            truth = read_lesions(case, place.native)
            scores[case.name] = {LABEL: lesion_scores(found, truth, place.native.spacing_mm)}
            if case.name in shown:  # by number: the figure is released, and names of cases are not
                title = f"case {len(rows) + 1}: {heading(scores[case.name][LABEL])}"
                rows.append((title, prepared.image, place.cut_mask(truth)[0], place.cut_mask(found)[0]))
        if entry.get("output"):
            label_map = found.astype(np.uint8) * np.uint8(used[0].value)
            write_labels(Path(entry["output"]), label_map, open_image(case.image))
        progress.say(f"{case.name}: {time.monotonic() - start:.1f} s")
    files = [entry["output"] for entry in job["cases"] if entry.get("output")]
    answer: dict[str, Any] = {"files": files, "peak_memory_bytes": peak_memory()}
    if scores:
        answer.update(
            cases=scores,
            mean=mean_scores(scores),
            threshold=round(float(np.mean([n.threshold for n in nets.values()])), 4),
        )
        lesion_means(answer["mean"], scores)
        answer["summary"] = summary({name: by_label[LABEL] for name, by_label in scores.items()})
    if job.get("figure"):
        _draw(Path(job["figure"]), rows, next(iter(nets.values())).settings)
    return answer


def _draw(path: Path, rows: list[tuple[Any, ...]], settings: LesionSettings) -> None:
    """Draw the figure of predictions, or remove one of an earlier evaluation, which shows other cases."""
    from trainers.lesion.pictures import Shown, draw_predictions

    path.unlink(missing_ok=True)
    if rows:
        draw_predictions(path, [Shown(*row) for row in rows], settings.window, settings.geometry.spacing)


def predict(
    case: Case, nets: list[LesionNet], device: torch.device, *, mirror: bool = False
) -> tuple[NDArray[np.float32], Prepared]:
    """Return the nets' mean probability of a lesion (x, y, z) on the image's own grid, and what they saw."""
    settings = nets[0].settings
    if any(net.settings.geometry != settings.geometry for net in nets):
        raise TrainingError("the folds were trained on different crops: they cannot be averaged")
    prepared = prepare(case, settings.geometry, find_line(case, settings.geometry, settings.centreline))
    total = np.zeros(prepared.image.shape, dtype=np.float32)
    for net in nets:
        image = net.standard.apply(prepared.image, prepared.tissue, case.contrast)
        total += predict_volume(net.module, image, net.settings, device, mirror=mirror)
    return prepared.place.paste(total / np.float32(len(nets))), prepared


def lesion_means(mean: dict[str, Scores], cases: dict[str, dict[str, Scores]]) -> None:
    """Add to the means over cases those of the lesion scores."""
    for label, by_metric in mean.items():
        keys = dict.fromkeys(key for scores in cases.values() for key in scores[label])
        for key in keys:
            values = [value for scores in cases.values() if (value := scores[label][key]) is not None]
            by_metric[key] = float(np.mean(values)) if values else None


def _case(entry: dict[str, Any]) -> Case:
    if len(entry["images"]) != 1:
        raise TrainingError(f"{entry['name']}: {len(entry['images'])} images, and the net takes one")
    reference = Path(entry["reference"]) if entry.get("reference") else None
    cord_values = entry.get("cord_values")
    cord = entry.get("cord") or (reference if cord_values else None)
    return Case(
        name=entry["name"], subject=entry["name"], image=Path(entry["images"][0]), lesion=reference,
        contrast=contrast_of(entry["name"]), cord=Path(cord) if cord else None,
        lesion_values=tuple(entry["lesion_values"]) if entry.get("lesion_values") else None,
        cord_values=tuple(cord_values) if cord_values and not entry.get("cord") else None,
    )  # fmt: skip
