"""Contours drawn in Jim (Xinapse): its text files of regions of interest as masks.

A file is a list of `Begin KIND ROI … End KIND ROI` blocks. `Slice` counts from 1; the vertices X and Y of a contour are
millimetres from the middle of the slice along its columns and rows. A pixel belongs to a contour if its centre does. A
contour inside another one (Colour 1 in files that programs write) is a hole: pixels in an even number of contours are
outside. Regions that were deleted stay in the file with their history and are left out.

The file does not say how the image was turned on the screen: contours that come out mirrored need `flips`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from trainers.core.errors import TrainingError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from trainers.data.grid import Grid

CONTOURS = {"Irregular", "Spline"}
NO_AREA = {"Text", "Marker", "Line", "CurvedLine", "OpenSpline"}
BLOCK = re.compile(r"Begin\s+(\w+)\s+ROI\b(.*?)\bEnd\s+\1\s+ROI\b", re.DOTALL)
NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
VERTEX = re.compile(rf"X\s*=\s*({NUMBER})\s*;\s*Y\s*=\s*({NUMBER})")
QUOTED = re.compile(r'"[^"]*"')
FEWEST = 3  # corners of an area


@dataclass(frozen=True, eq=False)
class Contour:
    """One closed line: the slice, counted from 0, and its vertices (N, 2) in mm from the slice's middle."""

    slice: int
    vertices_mm: NDArray[np.float64]


def read_contours(path: Path) -> list[Contour]:
    """Return the contours of a file; raise `TrainingError` for what is damaged, or an area that is no contour."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise TrainingError(f"{path}: cannot be read: {error}") from error
    text = QUOTED.sub('""', text)  # annotations may hold anything
    blocks = BLOCK.findall(text)
    if len(blocks) != len(re.findall(r"Begin\s+\w+\s+ROI\b", text)):
        raise TrainingError(f"{path}: a region has no end: the file is cut short", hint="save it again in Jim")
    if not blocks and text.strip():
        raise TrainingError(f"{path}: not a ROI file of Jim", hint="it would begin with: Begin Irregular ROI")
    return [
        _contour(path, number, body)
        for number, (kind, body) in enumerate(blocks, start=1)
        if _has_area(path, number, kind) and not re.search(r"^\s*Deleted\b", body, re.MULTILINE)
    ]


def _has_area(path: Path, number: int, kind: str) -> bool:
    if kind not in CONTOURS | NO_AREA:
        raise TrainingError(
            f"{path}: region {number} is of kind {kind}; contours are read ({', '.join(sorted(CONTOURS))})",
            hint="convert it in Jim: ROI toolkit, to irregular",
        )
    return kind in CONTOURS


def _contour(path: Path, number: int, body: str) -> Contour:
    place = re.search(r"\bSlice\s*=\s*(\d+)", body)
    count = re.search(r"\bPoints\s*=\s*(\d+)", body)
    vertices = np.array(VERTEX.findall(body), dtype=np.float64).reshape(-1, 2)
    if not place or int(place[1]) < 1:
        raise TrainingError(f"{path}: region {number} has no slice")
    if len(vertices) < FEWEST or (count and int(count[1]) != len(vertices)):
        wanted = count[1] if count else f"at least {FEWEST}"
        raise TrainingError(f"{path}: region {number} has {len(vertices)} points, expected {wanted}")
    return Contour(int(place[1]) - 1, vertices)


def fill(
    contours: list[Contour], grid: Grid, *, flips: tuple[bool, bool] = (False, False), name: str = "contours"
) -> NDArray[np.bool_]:
    """Return the contours' mask (x, y, z); slices lie along z, columns along x, rows along y of the image as stored.

    Raises `TrainingError` for a slice that the image does not have and for points outside of it.
    """
    mask = np.zeros(grid.shape, dtype=bool)
    wide, high, slices = grid.shape
    width_mm, height_mm = grid.spacing_mm[:2]
    for contour in contours:
        if contour.slice >= slices:
            raise TrainingError(
                f"{name}: a region lies in slice {contour.slice + 1}, and the image has {slices}",
                hint="the contours belong to another image, or to one with its axes in another order",
            )
        limit = np.array([wide * width_mm, high * height_mm]) / 2
        if (np.abs(contour.vertices_mm) > limit + max(width_mm, height_mm)).any():
            raise TrainingError(f"{name}: a region in slice {contour.slice + 1} reaches beyond the image")
        points = contour.vertices_mm * np.where(flips, -1, 1) / (width_mm, height_mm) + ((wide - 1) / 2, (high - 1) / 2)
        mask[:, :, contour.slice] ^= _inside(points, wide, high)
    return mask


def _inside(points: NDArray[np.float64], wide: int, high: int) -> NDArray[Any]:
    """Return which pixels' centres lie inside of a polygon (N, 2) in pixels: an odd number of edges to their right."""
    x, y = np.arange(wide)[:, None], np.arange(high)[None, :]
    found = np.zeros((wide, high), dtype=bool)
    for (x0, y0), (x1, y1) in zip(points, np.roll(points, -1, axis=0), strict=True):
        if y0 == y1:
            continue
        crosses = (y >= min(y0, y1)) & (y < max(y0, y1))
        found ^= crosses & (x < x0 + (y - y0) * (x1 - x0) / (y1 - y0))
    return found
