"""Pictures to look at before a long training, and after it: where the window lies, and what was found.

In a sheet the image is seen from the side and from the front, whole, with the window's edges (yellow), the centreline
(blue) and what is lesion (red); below, axial slices of the window as the net gets them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from trainers.core.files import atomic_path
from trainers.data.nifti import open_image, read_voxels
from trainers.data.regrid import resample_image, resample_mask
from trainers.data.window import Following
from trainers.lesion.chain import RPI, read_lesions

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from trainers.lesion.chain import Place
    from trainers.lesion.index import Case

SLICES = 6
BRIGHTEST = 99.5  # percentile that is white
LESION, WINDOW, LINE, FOUND = "#ff4040", "#ffd000", "#40a0ff", "#40e060"


def draw_sheet(path: Path, case: Case, place: Place, margin: int) -> None:
    """Draw one case's preparation."""
    image = open_image(case.image)
    oriented, way = place.native.oriented(RPI)
    whole = resample_image(way.apply(read_voxels(case.image, image)), oriented, place.work)
    lesion = resample_mask(way.apply(read_lesions(case, place.native)), oriented, place.work)
    figure = Figure(figsize=(11, 8), layout="constrained")
    rows: Any = figure.subfigures(2, 1, height_ratios=(3, 2))
    side, front = rows[0].subplots(1, 2)
    _view(side, whole, lesion, place, axis=0, margin=margin)
    _view(front, whole, lesion, place, axis=1, margin=margin)
    side.set_title(f"{case.name}: from the side", fontsize=9)
    front.set_title("from the front", fontsize=9)
    cut, inside = place.crop.apply(whole), place.crop.apply(lesion)
    for axes, z in zip(rows[1].subplots(1, SLICES), slices_of(inside), strict=True):
        _axial(axes, cut[:, :, z], [(inside[:, :, z], LESION)])
        if isinstance(place.crop, Following) and margin:
            low, high = margin - 0.5, cut.shape[0] - margin - 0.5
            axes.plot([low, high, high, low, low], [low, low, high, high, low], color=WINDOW, linewidth=0.8)
        axes.set_title(f"slice {z}", fontsize=8)
    _save(figure, path)


def draw_predictions(
    path: Path, cases: Sequence[tuple[str, NDArray[np.float32], NDArray[np.bool_], NDArray[np.bool_]]]
) -> None:
    """Draw validation cases on the net's grid: (name, image, lesion, found), all (x, y, z)."""
    figure = Figure(figsize=(2 * SLICES, 2.2 * max(1, len(cases))), layout="constrained")
    grid: Any = figure.subplots(max(1, len(cases)), SLICES, squeeze=False)
    for row, (name, image, lesion, found) in zip(grid, cases, strict=False):
        for axes, z in zip(row, slices_of(lesion | found), strict=True):
            _axial(axes, image[:, :, z], [(lesion[:, :, z], LESION), (found[:, :, z], FOUND)])
        row[0].set_title(f"{name}   red: reference, green: found", fontsize=8, loc="left")
    _save(figure, path)


def slices_of(mask: NDArray[np.bool_]) -> list[int]:
    """Return slices to show: spread over those that hold something of the mask, else over all."""
    filled = np.flatnonzero(mask.any(axis=(0, 1)))
    choice = filled if len(filled) else np.arange(mask.shape[2])
    return [int(choice[round(place)]) for place in np.linspace(0, len(choice) - 1, SLICES)]


def _view(
    axes: Axes, whole: NDArray[np.float32], lesion: NDArray[np.bool_], place: Place, *, axis: int, margin: int
) -> None:
    """Show the plane through the middle of the window along x (0) or y (1), and what of the lesion lies anywhere."""
    other = 1 - axis
    if isinstance(place.crop, Following):
        crop = place.crop
        centres = crop.starts + (np.asarray(crop.size) - 1) / 2
        at = int(np.clip(np.median(centres[:, axis]), 0, whole.shape[axis] - 1))
        z = crop.first + np.arange(len(centres))
        axes.plot(centres[:, other], z, color=LINE, linewidth=0.8)
        low = crop.starts[:, other] + margin - 0.5
        for edge in (low, low + crop.size[other] - 2 * margin):
            axes.plot(edge, z, color=WINDOW, linewidth=0.8)
    else:
        at = place.crop.start[axis] + place.crop.shape[axis] // 2
    plane = whole.take(min(at, whole.shape[axis] - 1), axis)
    _show(axes, plane, [(np.asarray(lesion.any(axis=axis)), LESION)])


def _axial(axes: Axes, plane: NDArray[np.float32], masks: list[tuple[NDArray[np.bool_], str]]) -> None:
    _show(axes, plane, masks)
    axes.set_xlim(-0.5, plane.shape[0] - 0.5)


def _show(axes: Axes, plane: NDArray[np.float32], masks: list[tuple[NDArray[np.bool_], str]]) -> None:
    """Show a plane with its second axis upwards, and the outlines of masks."""
    low, high = np.percentile(plane, (100 - BRIGHTEST, BRIGHTEST))
    axes.imshow(plane.T, cmap="gray", origin="lower", vmin=low, vmax=max(high, low + 1e-6), interpolation="nearest")
    for mask, colour in masks:
        if mask.any():
            axes.contour(mask.T.astype(float), levels=[0.5], colors=[colour], linewidths=0.9)
    axes.set_axis_off()


def _save(figure: Figure, path: Path) -> None:
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=90, metadata={"Software": None})
