"""Pictures to look at before a long training, and after it: where the window lies, and what was found.

In a sheet the image is seen from the side and from the front, whole, with the window's edges (yellow), the centreline
(blue) and what is lesion (orange); below, axial slices of the window as the net gets them. The figure of predictions
shows what was found beside what is there. Letters and bars say where one looks from, and how large things are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

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
# Of Okabe and Ito's colours, which colour-blind readers tell apart.
LESION, WINDOW, LINE, FOUND = "#E69F00", "#F0E442", "#56B4E9", "#56B4E9"
BAR_MM = 10
EDGE = withStroke(linewidth=2, foreground="black")  # white letters can be read on white cord fluid, too
SAID: dict[str, Any] = {"color": "white", "fontsize": 8, "ha": "center", "va": "center", "path_effects": [EDGE]}


def draw_sheet(path: Path, case: Case, place: Place, margin: int) -> None:
    """Draw one case's preparation."""
    image = open_image(case.image)
    oriented, way = place.native.oriented(RPI)
    whole = resample_image(way.apply(read_voxels(case.image, image)), oriented, place.work)
    lesion = resample_mask(way.apply(read_lesions(case, place.native)), oriented, place.work)
    figure = Figure(figsize=(11, 8), layout="constrained")
    rows: Any = figure.subfigures(2, 1, height_ratios=(3, 1))
    side, front = rows[0].subplots(1, 2)
    _view(side, whole, lesion, place, axis=0, margin=margin)
    _view(front, whole, lesion, place, axis=1, margin=margin)
    for axes, view, letters in ((side, "from the side", "PA"), (front, "from the front", "RL")):
        axes.set_title(view, fontsize=9)
        _mark(axes, letters, place.work.spacing_mm[0])
    figure.suptitle(case.name, fontsize=10)
    cut, inside = place.crop.apply(whole), place.crop.apply(lesion)
    for axes, z in zip(rows[1].subplots(1, SLICES), slices_of(inside), strict=True):
        _axial(axes, cut[:, :, z], [(inside[:, :, z], LESION)])
        if isinstance(place.crop, Following) and margin:
            low, high = margin - 0.5, cut.shape[0] - margin - 0.5
            axes.plot([low, high, high, low, low], [low, low, high, high, low], color=WINDOW, linewidth=1)
        axes.set_title(f"slice {z}", fontsize=8)
    shown = {"lesion": LESION, "window": WINDOW, "centreline": LINE}
    _explain(figure, shown if isinstance(place.crop, Following) else {"lesion": LESION})
    _save(figure, path)


@dataclass(frozen=True, eq=False)
class Shown:
    """A case in the figure of predictions, on the net's grid; all volumes are (x, y, z)."""

    title: str
    image: NDArray[np.float32]
    lesion: NDArray[np.bool_]
    found: NDArray[np.bool_]


def draw_predictions(path: Path, cases: Sequence[Shown], edge: int, spacing: Sequence[float]) -> None:
    """Draw a row for each case: axial slices of `edge` voxels around the cord, each plain and with the two masks.

    `spacing` is that of the net's grid in mm. Of whole images the part around the masks is shown, which is no more of a
    person than a window shows.
    """
    figure = Figure(figsize=(2 * SLICES, 2.3 * len(cases) + 0.3), layout="constrained")
    rows: Any = figure.subfigures(len(cases), 1, squeeze=False)
    for (row,), case in zip(rows, cases, strict=True):
        row.suptitle(case.title, fontsize=10, x=0.01, ha="left")
        both = case.lesion | case.found
        all_axes = row.subplots(1, SLICES)
        for pair, z in zip((all_axes[i : i + 2] for i in range(0, SLICES, 2)), _inner(both), strict=True):
            part = _around(both[:, :, z], edge)
            masks = [(case.lesion[:, :, z][part], LESION), (case.found[:, :, z][part], FOUND)]
            _axial(pair[0], case.image[:, :, z][part], [])
            _axial(pair[1], case.image[:, :, z][part], masks)
            for axes in pair:
                axes.set_aspect(spacing[1] / spacing[0])
        _mark(all_axes[0], "RL", spacing[0])
    _explain(figure, {"reference": LESION, "prediction": FOUND})
    _save(figure, path)


def _explain(figure: Figure, colours: dict[str, str]) -> None:
    """Write below what the colours are."""
    handles = [Line2D([], [], color=colour) for colour in colours.values()]
    place = {"loc": "outside lower center", "ncols": len(colours)}
    figure.legend(handles, list(colours), fontsize=10, frameon=False, **place)


def _mark(axes: Axes, letters: str, spacing: float) -> None:
    """Name the two sides of a picture, and draw a bar of some millimetres; `spacing` is along its first axis."""
    low, high = axes.get_xlim()
    bottom, top = axes.get_ylim()
    for place, letter in zip((0.05, 0.95), letters, strict=True):
        axes.text(place, 0.5, letter, transform=axes.transAxes, **SAID)
    start, y = low + 0.05 * (high - low), bottom + 0.04 * (top - bottom)
    end = start + BAR_MM / spacing
    axes.plot([start, end], [y, y], color="white", linewidth=2, solid_capstyle="butt")
    axes.text((start + end) / 2, y + 0.05 * (top - bottom), f"{BAR_MM} mm", **SAID)


def _inner(mask: NDArray[np.bool_]) -> list[int]:
    """Return half as many slices, none at the tip of what is shown."""
    filled = np.flatnonzero(mask.any(axis=(0, 1)))
    choice = filled if len(filled) else np.arange(mask.shape[2])
    return [int(choice[int(len(choice) * (2 * place + 1) / SLICES)]) for place in range(SLICES // 2)]


def _around(mask: NDArray[np.bool_], edge: int) -> tuple[slice, slice]:
    """Return a square part of a slice: its middle, or of a large slice what lies around a mask."""
    centre = np.asarray(mask.shape) / 2
    if mask.any() and min(mask.shape) > 2 * edge:
        centre = np.argwhere(mask).mean(axis=0)
    starts = [int(np.clip(round(c - edge / 2), 0, max(0, n - edge))) for c, n in zip(centre, mask.shape, strict=True)]
    return slice(starts[0], starts[0] + edge), slice(starts[1], starts[1] + edge)


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
        axes.plot(centres[:, other], z, color=LINE, linewidth=1)
        low = crop.starts[:, other] + margin - 0.5
        for edge in (low, low + crop.size[other] - 2 * margin):
            axes.plot(edge, z, color=WINDOW, linewidth=1)
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
            axes.contour(mask.T.astype(float), levels=[0.5], colors=[colour], linewidths=1.2)
    axes.set_axis_off()


def _save(figure: Figure, path: Path) -> None:
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=90, metadata={"Software": None})
