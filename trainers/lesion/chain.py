"""The one way from an image to what the net sees, and back: training and prediction both go it.

    orientation RPI → 0.5 mm around the image's centre → window that follows the cord → [intensity]

and back: paste the window → the image's own spacing → its own orientation. Nothing is thresholded before the end.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from trainers.core.errors import TrainingError
from trainers.data.grid import Grid
from trainers.data.nifti import open_image, read_voxels
from trainers.data.regrid import resample_image, resample_mask, resample_probability
from trainers.data.window import Box, Crop, Following, Loss, crop_from_json
from trainers.lesion.centreline import Centreline, from_sct
from trainers.lesion.intensity import Tissue

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from trainers.lesion.config import GeometrySettings
    from trainers.lesion.index import Case

RPI = "RPI"
FEWEST_SLICES = 2
CHUNK = 1 << 20
SCT_CONTRASTS = {"T1w": "t1", "T2w": "t2", "T2star": "t2s", "dwi": "dwi"}


@dataclass(frozen=True, eq=False)
class Place:
    """Where the net's volume lies in the image that it was cut from: all that a prediction needs to go back."""

    native: Grid
    work: Grid  # in RPI at the net's spacing
    crop: Crop

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Return the voxel size of the image in mm."""
        return self.native.spacing_mm

    def paste(self, probability: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return a probability (x, y, z) of the net's volume on the image's grid; 0 outside."""
        oriented, way = self.native.oriented(RPI)
        whole = resample_probability(self.crop.undo(probability), self.work, oriented)
        return np.ascontiguousarray(way.undo(whole))

    def cut_mask(self, mask: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], Loss]:
        """Return a mask of the image in the net's volume, and what of it lies outside."""
        oriented, way = self.native.oriented(RPI)
        fine = resample_mask(way.apply(mask), oriented, self.work)
        return self.crop.apply(fine), self.crop.lost(fine, self.work)

    def as_json(self) -> dict[str, Any]:
        """Return the place for a sidecar."""
        return {"native": self.native.as_json(), "work": self.work.as_json(), "crop": self.crop.as_json()}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Place:
        """Return the place that a sidecar holds."""
        native, work = (Grid.from_json(document[key]) for key in ("native", "work"))
        return cls(native, work, crop_from_json(document["crop"]))


@dataclass(frozen=True, eq=False)
class Prepared:
    """One image as the net sees it, but for its intensity."""

    image: NDArray[np.float32]  # (x, y, z), in RPI
    tissue: Tissue
    place: Place
    facts: dict[str, Any]  # for the sidecar

    def sidecar(self) -> dict[str, Any]:
        """Return everything about how the case was made, with the way back."""
        return {**self.facts, **self.place.as_json()}


def prepare(case: Case, settings: GeometrySettings, line: Centreline | None) -> Prepared:
    """Prepare one image; `line` may be missing where the whole image is taken.

    Raises `TrainingError` naming the file for a 2D or 4D image, a centreline elsewhere and an image of one value.
    """
    image = open_image(case.image)
    native = Grid.of(image)
    if min(native.shape) < FEWEST_SLICES:
        raise TrainingError(
            f"{case.image}: a 2D image of shape {image.shape}, and lesions are looked for in volumes",
            hint="a net for slices: recipe nnunet, configuration 2d",
        )
    oriented, way = native.oriented(RPI)
    work = oriented.spaced(settings.spacing, settings.alignment)
    crop, facts = _crop(case, settings, line, work)
    volume = resample_image(way.apply(read_voxels(case.image, image)), oriented, work)
    cut = crop.apply(volume)
    try:
        tissue = Tissue.of(_tissue(cut, crop, settings))
    except TrainingError as error:
        raise TrainingError(f"{case.image}: {error.message}", hint="look at the image and its cord") from error
    facts = {"image": {"name": case.image.name, "sha256": sha256(case.image)}, "alignment": settings.alignment, **facts}
    return Prepared(np.ascontiguousarray(cut), tissue, Place(native, work, crop), facts)


def find_line(case: Case, settings: GeometrySettings, without: str = "mask") -> Centreline | None:
    """Return the case's centreline: of its cord mask or table, else as `without` says; None for whole images."""
    if settings.crop == "none":
        return None
    if case.cord is None:
        if without == "sct":
            return from_sct(case.image, SCT_CONTRASTS.get(case.contrast, "t2"))
        raise TrainingError(
            f"{case.image}: no cord mask and no centreline",
            hint="give one (--cord FILE), or a model that finds the cord: --cord-model NAME@TAG",
        )
    if case.cord_values is None:
        return Centreline.read(case.cord)
    image = open_image(case.cord)
    mask = np.isin(read_voxels(case.cord, image), case.cord_values)
    return Centreline.of_mask(mask, Grid.of(image), str(case.cord))


def read_lesions(case: Case, native: Grid) -> NDArray[np.bool_]:
    """Read the case's lesion mask (x, y, z); raise `TrainingError` where it is not on the image's grid."""
    if case.lesion is None:
        raise TrainingError(f"{case.name}: no lesion mask")
    if case.lesion.suffix == ".roi":
        from trainers.lesion.jim import fill, read_contours

        return fill(read_contours(case.lesion), native, name=str(case.lesion))
    image = open_image(case.lesion)
    if not Grid.of(image).same_as(native):
        raise TrainingError(
            f"{case.lesion}: not on the grid of {case.image}: shape {image.shape} and {native.shape}, or other affines",
            hint="resample the mask onto the image, or take the image that it was drawn on",
        )
    voxels = read_voxels(case.lesion, image)
    return voxels > 0 if case.lesion_values is None else np.isin(voxels, case.lesion_values)


def sha256(path: Path) -> str:
    """Return a file's digest."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _crop(case: Case, settings: GeometrySettings, line: Centreline | None, work: Grid) -> tuple[Crop, dict[str, Any]]:
    if line is None:
        return Box(work.shape, (0, 0, 0), work.shape), {}
    course = line.along(work, settings.hold_mm, str(case.image))
    facts = {
        "centreline": {
            "source": line.source.rpartition("/")[2],
            "points_mm": line.points_mm.round(3).tolist(),
            "longest_gap_mm": round(course.gap_mm, 2),
        }
    }
    if settings.crop == "box":
        z = np.arange(course.slices.start, course.slices.stop)
        inside = np.clip(course.centres, 0, np.asarray(work.shape[:2]) - 1)
        return Box.around(np.column_stack([inside, z]), work, settings.pads), facts
    edge = settings.window + 2 * settings.margin
    sct = settings.alignment == "sct"
    return Following.around(course.centres, course.first, (edge, edge), work.shape, sct=sct), facts


def _tissue(cut: NDArray[np.float32], crop: Crop, settings: GeometrySettings) -> NDArray[np.float32]:
    """Return the voxels that percentiles are taken of: in the window and the image, in slices that show something."""
    if isinstance(crop, Box):
        return cut.ravel()
    middle = slice(settings.margin, settings.margin + settings.window)
    inside = crop.in_image()[middle, middle]
    window = cut[middle, middle]
    shows = window.max(axis=(0, 1)) > window.min(axis=(0, 1))
    return np.asarray(window[inside & shows], dtype=np.float32)
