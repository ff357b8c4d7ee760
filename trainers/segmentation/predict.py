"""Runs a trained model on images and, where there are reference labels, measures it.

One image after the other, in this process: nnU-Net's worker pools cost more than they bring for a few images.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainers.core.errors import TrainingError
from trainers.core.metrics import case_scores, mean_scores, values_of
from trainers.core.progress import Progress
from trainers.data.nifti import open_image, read_labels, same_grid, voxel_mm, write_labels
from trainers.segmentation.contract import image_orientation, read_document
from trainers.segmentation.cropping import Cropping, cropped

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from trainers.core.metrics import Scores
    from trainers.segmentation.runner import Runner


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is predicted at one go: an image a channel, and what to do with the result."""

    name: str
    images: tuple[Path, ...]
    folds: tuple[str, ...]  # the networks whose outputs are averaged
    output: Path | None = None
    reference: Path | None = None
    cropping: Cropping | None = None  # around the cord, before the network sees it


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Run a prediction job; return the `files` that were written, and with references `cases` and `mean`.

    Job keys: model (folder), cases (list of name, images, folds, and optionally output, reference, and of a model for
    cropped images cord and cord_values), device, mirror, half, allow_code, and optionally precision (see
    `inference_type`), threads (with one a CPU's sums do not depend on the number of its cores) and pads (face → mm:
    images are cropped around the cord, results lie in the whole image).
    `peak_memory_bytes` is the most that this process held.
    """
    cases = [_case(entry, job.get("pads")) for entry in job["cases"]]
    folder, progress = Path(job["model"]), Progress()
    dataset_json = read_document(folder, "dataset.json")
    orientation = image_orientation(folder, dataset_json, progress)
    channels = len(dataset_json.get("channel_names", dataset_json.get("modality", ())))
    for case in cases:  # before the first network: a wrong file should not cost an hour
        _check_files(case, channels)
        if case.reference:
            _read_reference(case.reference, dataset_json["labels"])
    from trainers.core.environment import cpu_count, peak_memory

    threads = job.get("threads") or cpu_count()
    os.environ.update(nnUNet_def_n_proc=str(threads))  # nnU-Net takes no more threads than that
    from trainers.segmentation.network import load_model
    from trainers.segmentation.runner import Runner

    device = _device(job["device"], threads)
    folds = sorted({fold for case in cases for fold in case.folds})
    with contextlib.redirect_stdout(sys.stderr):  # nnU-Net prints; stdout is the command's answer
        model = load_model(folder, folds, half=job["half"], allow_code=job["allow_code"])
        if job["mirror"] and not model.mirror_axes:
            progress.say("warning: the network was trained without mirroring: --mirror changes nothing")
        runner = Runner(model=model, device=device, mirror=job["mirror"], precision=job.get("precision", "auto"))
        scores = _predict_all(runner, cases, orientation, progress)
    files = [str(case.output) for case in cases if case.output]
    answer: dict[str, Any] = {"files": files, "peak_memory_bytes": peak_memory()}
    if scores:
        answer.update(cases=scores, mean=mean_scores(scores))
    return answer


def _case(entry: dict[str, Any], pads: dict[str, float] | None) -> Case:
    output, reference = entry.get("output"), entry.get("reference")
    cropping = None
    if pads:
        values, cord = entry.get("cord_values"), entry.get("cord")
        cord, values = (cord, None) if cord else (reference if values else None, values)
        cropping = Cropping(pads_mm=pads, cord=Path(cord) if cord else None, values=tuple(values) if values else None)
    return Case(
        name=entry["name"],
        images=tuple(Path(image) for image in entry["images"]),
        folds=tuple(str(fold) for fold in entry["folds"]),
        output=Path(output) if output else None,
        reference=Path(reference) if reference else None,
        cropping=cropping,
    )


def _check_files(case: Case, channels: int) -> None:
    """Open every header of a case."""
    if len(case.images) != channels:
        raise TrainingError(
            f"{case.images[0]}: {len(case.images)} images for case {case.name}, and the model has {channels} channels",
            hint="give the channels of a case as CASE_0000.nii.gz, CASE_0001.nii.gz, or joined by commas",
        )
    first = open_image(case.images[0])
    for path in (*case.images[1:], *([case.reference] if case.reference else [])):
        if not same_grid(first, image := open_image(path)):
            raise TrainingError(
                f"{path}: not on the grid of {case.images[0]}: shape {image.shape} and {first.shape}, or other affines",
                hint="resample one of them onto the other",
            )


def _device(wanted: str, threads: int) -> torch.device:
    import torch

    from trainers.core.environment import choose_device

    device = choose_device(wanted)
    torch.set_num_threads(threads)
    return device


def _predict_all(
    runner: Runner, cases: list[Case], orientation: str, progress: Progress
) -> dict[str, dict[str, Scores]]:
    """Predict one case after the other; return the scores of those that have a reference."""
    scores, names = {}, runner.model.dataset_json["labels"]
    with progress.bar("predict", len(cases)) as advance:
        for case in cases:
            start = time.monotonic()
            with cropped(case.images, case.cropping) as (images, box):
                labels = runner.predict(images, case.folds, orientation)
            labels = labels if box is None else box.undo(labels)
            like = open_image(case.images[0])
            if case.reference:
                truth = _read_reference(case.reference, names)
                scores[case.name] = case_scores(labels, truth, names, voxel_mm(like))
            if case.output:
                write_labels(case.output, labels, like)
            if progress.live:
                advance(case.name)
            else:
                progress.say(f"{case.name}: {time.monotonic() - start:.1f} s")
    return scores


def _read_reference(path: Path, labels: dict[str, Any]) -> NDArray[np.integer[Any]]:
    return read_labels(path, open_image(path), {0} | values_of(labels))
