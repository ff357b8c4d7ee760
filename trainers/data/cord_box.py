"""The box around the cord that a segmentation model sees whose images the Spinal Cord Toolbox crops first.

As its sc-crop does: the extent of the cord in the image's own voxels, at each face wider by a margin in mm that is
rounded up to whole voxels, cut at the image's border. Turning or flipping axes does not change which voxels are kept:
cropping may come before or after a change of orientation.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage

from trainers.core.errors import TrainingError
from trainers.data.grid import Grid
from trainers.data.nifti import open_image, read_voxels
from trainers.data.window import Box, faces_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

FACES = ("superior", "inferior", "left", "right", "anterior", "posterior")
DETECTOR = "sc_crop"
ROUNDING = 1e-4  # of a voxel: affines that were rounded differently must not add one
SMALL_PART = 0.1  # of the largest connected part: smaller ones are no piece of the cord
HINT = "name its cord mask: --cord FILE, or a model that finds the cord: --cord-model NAME@TAG"


def cord_box(mask: NDArray[np.bool_], where: Grid, image: Grid, pads_mm: Mapping[str, float], name: str) -> Box:
    """Return the box around a cord mask, which may lie on another grid (`where`) than the image.

    Raises `TrainingError` for an empty mask and one outside of the image.
    """
    if not mask.any():
        raise TrainingError(f"{name}: the cord mask is empty", hint=HINT)
    voxels = np.argwhere(without_specks(mask)).astype(np.float64)
    if not where.same_as(image):
        voxels = image.to_voxels(where.to_world(voxels))
    inside = voxels[image.contains(voxels)]
    if not len(inside):
        raise TrainingError(f"{name}: the cord mask lies outside of the image", hint="it must belong to this image")
    first, last = (np.floor(edge + 0.5).astype(int) for edge in (inside.min(axis=0), inside.max(axis=0)))
    return widened(first, last, image, pads_mm)


def widened(first: Sequence[int], last: Sequence[int], image: Grid, pads_mm: Mapping[str, float]) -> Box:
    """Return the box of voxels `first` to `last` (both inside), wider by so many mm at each face."""
    start, stop = [], []
    for axis, (letter, size) in enumerate(zip(image.orientation, image.shape, strict=True)):
        low, high = (int(np.ceil(pads_mm[face] / image.spacing_mm[axis] - ROUNDING)) for face in faces_of(letter))
        start.append(max(0, int(first[axis]) - low))
        stop.append(min(size, int(last[axis]) + high + 1))
    x, y, z = (b - a for a, b in zip(start, stop, strict=True))
    return Box(image.shape, (start[0], start[1], start[2]), (x, y, z))


def read_box(image: Path, cord: Path, values: Sequence[int] | None, pads_mm: Mapping[str, float]) -> Box:
    """Return the box of an image and the file of its cord mask; `values` are the labels that count, None: all > 0."""
    seen = open_image(cord)
    voxels = read_voxels(cord, seen)
    mask = voxels > 0 if values is None else np.isin(voxels, values)
    return cord_box(mask, Grid.of(seen), Grid.of(open_image(image)), pads_mm, str(cord))


def detected_box(image: Path, pads_mm: Mapping[str, float]) -> Box:
    """Return the box that the Spinal Cord Toolbox itself would take: its detector's, from the package sc_crop.

    Raises `TrainingError` where the package is not installed or finds no cord.
    """
    try:
        package: Any = importlib.import_module(DETECTOR)
    except ImportError as error:
        raise TrainingError(f"{image}: no cord is given, and {DETECTOR} is not installed", hint=HINT) from error
    try:
        found = package.detect(str(image), **{f"pad_{face}": pads_mm[face] for face in FACES})
    except (RuntimeError, ValueError) as error:
        raise TrainingError(f"{image}: {DETECTOR} finds no cord: {error}", hint=HINT) from error
    edges = [(int(found[f"{axis}min"]), int(found[f"{axis}max"])) for axis in "xyz"]
    whole = Grid.of(open_image(image)).shape
    if any(not 0 <= first <= last < size for (first, last), size in zip(edges, whole, strict=True)):
        raise TrainingError(f"{image}: {DETECTOR} gives a box beyond the image: {edges}")
    (x0, x1), (y0, y1), (z0, z1) = edges
    return Box(whole, (x0, y0, z0), (x1 - x0 + 1, y1 - y0 + 1, z1 - z0 + 1))


def detector_version() -> str:
    """Return the version of sc_crop, "" where it does not say."""
    return str(getattr(importlib.import_module(DETECTOR), "__version__", ""))


def without_specks(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Leave out connected parts that are small beside the largest: they would pull a line or a box aside."""
    parts, count = ndimage.label(mask, structure=np.ones((3, 3, 3)))
    if count < 2:  # noqa: PLR2004 - one part
        return mask
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    return np.asarray((sizes >= SMALL_PART * sizes.max())[parts])
