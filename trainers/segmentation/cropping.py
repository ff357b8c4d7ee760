"""Models of cord-cropped images: the dataset that they are trained on, and prediction in an image that is not cropped.

The cropped dataset is a raw dataset of nnU-Net like any other: boxes around the cords, on the grids of the images that
they were cut from, and the splits of the whole one. Beside its dataset.json lie

    crop_metadata.json       margins in mm, which the Spinal Cord Toolbox crops with: it travels into the release
    crops.json               where each box lay, and what of its labels was lost
"""

from __future__ import annotations

import shutil
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np

from trainers.core.cases import each_case
from trainers.core.environment import cpu_count
from trainers.core.errors import TrainingError
from trainers.core.files import write_json
from trainers.core.progress import Progress
from trainers.data.cord_box import FACES, detected_box, detector_version, read_box
from trainers.data.grid import Grid
from trainers.data.nifti import open_image, read_voxels

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from trainers.data.window import Box

FILE = "crop_metadata.json"
CROPS = "crops.json"
PARTS = {"Tr": "numTraining", "Ts": "numTest"}
LISTS = ("training", "test", "dataset")  # of cases, by file, which are others now


@dataclass(frozen=True, kw_only=True)
class Cropping:
    """How images are cropped before a prediction: margins, and of each case the cord mask."""

    pads_mm: Mapping[str, float]
    cord: Path | None = None  # None: the detector finds it
    values: tuple[int, ...] | None = None  # labels of the mask that count, None: all above 0

    def box(self, image: Path) -> Box:
        """Return the box of an image."""
        if self.cord is None:
            return detected_box(image, self.pads_mm)
        return read_box(image, self.cord, self.values, self.pads_mm)


@contextmanager
def cropped(images: tuple[Path, ...], cropping: Cropping | None) -> Iterator[tuple[tuple[Path, ...], Box | None]]:
    """Give the images of a case cut to the box around the cord, as files that are gone afterwards, and the box.

    Without a cropping the images themselves are given.
    """
    if cropping is None:
        yield images, None
        return
    box = cropping.box(images[0])
    with tempfile.TemporaryDirectory(prefix="mreg-crop-") as folder:
        files = tuple(Path(folder, f"{number:04d}.nii") for number, _ in enumerate(images))
        for path, target in zip(images, files, strict=True):
            _cut(path, target, box)
        yield files, box


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Make the cropped dataset of a raw one; return its `folder` and `lost`: case → what of its labels is outside.

    Job keys: dataset and target (folders), dataset_json (what the new one's says), pads (face → mm), cord_values (the
    labels that are cord in the label maps) or cords (case → mask file) or detector (true: sc_crop finds them), about
    (what crop_metadata.json says of where the boxes come from). The target is written under a temporary name.
    """
    source, target = Path(job["dataset"]), Path(job["target"])
    partial = target.with_name(f".{target.name}.part")
    shutil.rmtree(partial, ignore_errors=True)  # by a call that was killed
    try:
        lost = _write(job, source, partial)
        partial.rename(target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return {"folder": str(target), "lost": lost}


def _write(job: dict[str, Any], source: Path, folder: Path) -> dict[str, str]:
    document = {key: value for key, value in job["dataset_json"].items() if key not in LISTS}
    ending, channels = document["file_ending"], len(document["channel_names"])
    progress, crops, lost = Progress(), {}, {}
    for part, count in PARTS.items():
        labels = {path.name.removesuffix(ending): path for path in (source / f"labels{part}").glob(f"[!.]*{ending}")}
        if not labels and part == "Ts":
            continue
        for kind in ("images", "labels"):
            (folder / f"{kind}{part}").mkdir(parents=True)

        def one(case: str, part: str = part, labels: dict[str, Path] = labels) -> Box:
            names = [f"{case}_{channel:04d}{ending}" for channel in range(channels)]
            images = [source / f"images{part}" / name for name in names]
            box = _box(job, case, images[0], labels[case])
            for name, path in zip(names, images, strict=True):
                _cut(path, folder / f"images{part}" / name, box)
            _cut(labels[case], folder / f"labels{part}" / f"{case}{ending}", box)
            return box

        with progress.stage("crop around the cords"), progress.bar("crop", len(labels)) as advance:
            boxes = each_case(one, sorted(labels), cpu_count(), advance)
        for case, box in sorted(boxes.items()):
            outside = _lost(labels[case], box)
            crops[case] = {**box.as_json(), "lost": outside}
            if outside:
                lost[case] = outside
                progress.say(f"warning: {case}: labels outside of the box: {outside}")
        document[count] = len(labels)
    if not crops:
        raise TrainingError(f"{source / 'labelsTr'}: no label maps *{ending}")
    if (source / "splits_final.json").is_file():
        shutil.copyfile(source / "splits_final.json", folder / "splits_final.json")
    version = {"sc_crop_version": detector_version()} if job.get("detector") else {}
    write_json(folder / FILE, {**version, **{f"pad_{face}": job["pads"][face] for face in FACES}, **job["about"]})
    write_json(folder / CROPS, crops)
    write_json(folder / "dataset.json", document)
    return lost


def _box(job: dict[str, Any], case: str, image: Path, label: Path) -> Box:
    if job.get("detector"):
        return Cropping(pads_mm=job["pads"]).box(image)
    if cord := (job.get("cords") or {}).get(case):
        return Cropping(pads_mm=job["pads"], cord=Path(cord)).box(image)
    if not job.get("cord_values"):
        raise TrainingError(f"{image}: no cord mask", hint="a label for the cord, or masks: --cord DIR")
    return Cropping(pads_mm=job["pads"], cord=label, values=tuple(job["cord_values"])).box(image)


def _lost(label: Path, box: Box) -> str:
    """Say what of the labels lies outside of the box, "" for nothing."""
    image = open_image(label)
    loss = box.lost(read_voxels(label, image) > 0, Grid.of(image))
    return str(loss) if loss.voxels else ""


def _cut(path: Path, target: Path, box: Box) -> None:
    """Write a box of a NIfTI file where it lies in the world; no free text of the header travels along."""
    image = open_image(path)
    grid = Grid.of(image)
    if grid.shape != box.whole:
        raise TrainingError(f"{path}: shape {grid.shape}, and its case has {box.whole}", hint="mreg data verify")
    cut: NDArray[Any] = np.ascontiguousarray(box.apply(read_voxels(path, image)))
    affine = grid.part(box.start, box.shape).affine
    made = nib.Nifti1Image(cut, affine, dtype=cut.dtype)
    made.header.set_xyzt_units("mm")
    made.set_sform(affine, code=1)
    made.set_qform(affine, code=1)
    nib.save(made, target)
