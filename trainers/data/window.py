"""Parts of a volume around the cord, and the way back: a window that follows a centreline, and one box.

A moving window has no affine of its own: its slices lie beside one another only in the array. So a prediction is pasted
back slice by slice, from where each window stood, which the sidecar keeps.

Volumes are (x, y, z) with z along the cord, as in orientation RPI. Where a window is larger than the image, the edge
value is repeated on both sides: zeros on one side would bend percentiles and shift the cord to the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from trainers.data.grid import Grid

FACES = (("left", "right"), ("anterior", "posterior"), ("inferior", "superior"))
PAIR_OF_LETTER = {letter: pair for pair in FACES for letter in (pair[0][0].upper(), pair[1][0].upper())}


@dataclass(frozen=True, kw_only=True)
class Loss:
    """What of a mask a crop leaves out."""

    voxels: int
    of: int
    mm: dict[str, float]  # how far the crop would have to reach further, for each face where it must

    def __str__(self) -> str:
        """Say it in a line."""
        if not self.voxels:
            return f"all {self.of} voxels are inside"
        faces = ", ".join(f"{distance:.1f} mm {face}" for face, distance in self.mm.items())
        return f"{self.voxels} of {self.of} voxels are outside: {faces}"


@dataclass(frozen=True, eq=False)
class Following:
    """A window of one size in every slice of a range, at its own place in each."""

    whole: tuple[int, int, int]  # shape that is cut from
    first: int  # slice
    starts: NDArray[np.int64]  # (slices, 2): first column and row of each window; may lie beyond the image
    size: tuple[int, int]

    @classmethod
    def around(
        cls,
        centres: NDArray[np.float64],
        first: int,
        size: tuple[int, int],
        whole: tuple[int, int, int],
        *,
        sct: bool = False,
    ) -> Self:
        """Return the window around centres (slices, 2) in voxels, for slices from `first` on.

        It is shifted into the image where it would reach over the border. `sct` rounds as the Spinal Cord Toolbox
        does, up to one voxel off the middle.
        """
        if len(centres) == 0 or first < 0 or first + len(centres) > whole[2]:
            raise ValueError(f"slices {first} to {first + len(centres)} of {whole[2]}")
        if sct:
            starts = centres.astype(np.int64) - np.asarray(size) // 2 + 1
        else:
            starts = np.floor(centres - (np.asarray(size) - 1) / 2 + 0.5).astype(np.int64)
        for axis, (wide, there) in enumerate(zip(size, whole[:2], strict=True)):
            starts[:, axis] = np.clip(starts[:, axis], 0, there - wide) if wide <= there else -((wide - there) // 2)
        return cls(whole, first, starts, size)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Return the shape of what is cut out."""
        return (*self.size, len(self.starts))

    def apply(self, volume: NDArray[Any]) -> NDArray[Any]:
        """Return the window's voxels (x, y, z), edge values where it reaches beyond the image."""
        x, y, z = self._indices()
        columns, rows = np.clip(x, 0, self.whole[0] - 1), np.clip(y, 0, self.whole[1] - 1)
        cut: NDArray[Any] = self._checked(volume)[columns, rows, z]
        return cut

    def undo(self, cut: NDArray[Any], fill: float = 0) -> NDArray[Any]:
        """Return a whole volume with the window's voxels in their places and `fill` elsewhere."""
        if cut.shape != self.shape:
            raise ValueError(f"a volume of shape {cut.shape} was not cut by a window of {self.shape}")
        volume = np.full(self.whole, fill, dtype=cut.dtype)
        x, y, z = np.broadcast_arrays(*self._indices())
        inside = self.in_image()
        volume[x[inside], y[inside], z[inside]] = cut[inside]
        return volume

    def in_image(self) -> NDArray[np.bool_]:
        """Return which of the window's voxels (x, y, z) lie in the image; the others repeat its edge."""
        x, y, z = np.broadcast_arrays(*self._indices())
        return np.asarray((x >= 0) & (x < self.whole[0]) & (y >= 0) & (y < self.whole[1]) & (z >= 0))

    def lost(self, mask: NDArray[np.bool_], grid: Grid) -> Loss:
        """Say what of a whole mask is outside of the window."""
        voxels = np.argwhere(self._checked(mask))
        at = voxels[:, 2] - self.first
        known = np.clip(at, 0, len(self.starts) - 1)
        below = np.column_stack([self.starts[known] - voxels[:, :2], -at])
        above = np.column_stack(
            [voxels[:, :2] - self.starts[known] - np.asarray(self.size) + 1, at - len(self.starts) + 1]
        )
        return _loss(below, above, grid)

    def _indices(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Return the voxel of the whole volume for each voxel of the window, as arrays that broadcast."""
        x = np.arange(self.size[0])[:, None, None] + self.starts[None, None, :, 0]
        y = np.arange(self.size[1])[None, :, None] + self.starts[None, None, :, 1]
        z = self.first + np.arange(len(self.starts))[None, None, :]
        return x, y, z

    def _checked(self, volume: NDArray[Any]) -> NDArray[Any]:
        if volume.shape != self.whole:
            raise ValueError(f"a volume of shape {volume.shape}, and the window is one of {self.whole}")
        return volume

    def as_json(self) -> dict[str, Any]:
        """Return what a sidecar needs to paste back."""
        return {
            "kind": "window", "whole": list(self.whole), "first": self.first, "size": list(self.size),
            "starts": self.starts.tolist(),
        }  # fmt: skip


@dataclass(frozen=True)
class Box:
    """One box; what is cut out has a true affine (`Grid.part`)."""

    whole: tuple[int, int, int]
    start: tuple[int, int, int]
    shape: tuple[int, int, int]

    @classmethod
    def around(cls, voxels: NDArray[np.float64], grid: Grid, pads_mm: dict[str, float]) -> Self:
        """Return the box of voxel coordinates (N, 3), wider by so many mm at each face, cut at the image's border.

        Faces are left, right, anterior, posterior, inferior and superior, whatever the grid's orientation.
        """
        inside = voxels[grid.contains(voxels)]
        if not len(inside):
            raise ValueError("no point lies in the image")
        start, stop = [], []
        for axis, (letter, size) in enumerate(zip(grid.orientation, grid.shape, strict=True)):
            low, high = faces_of(letter)
            step = grid.spacing_mm[axis]
            first, last = inside[:, axis].min() - pads_mm[low] / step, inside[:, axis].max() + pads_mm[high] / step
            start.append(max(0, int(np.floor(first + 0.5))))
            stop.append(min(size, int(np.ceil(last - 0.5)) + 1))
        x, y, z = (max(b - a, 1) for a, b in zip(start, stop, strict=True))
        return cls(grid.shape, (start[0], start[1], start[2]), (x, y, z))

    def apply(self, volume: NDArray[Any]) -> NDArray[Any]:
        """Return a copy of the box's voxels."""
        if volume.shape != self.whole:
            raise ValueError(f"a volume of shape {volume.shape}, and the box is one of {self.whole}")
        return volume[self._slices()].copy()

    def undo(self, cut: NDArray[Any], fill: float = 0) -> NDArray[Any]:
        """Return a whole volume with the box's voxels in their place and `fill` elsewhere."""
        if cut.shape != self.shape:
            raise ValueError(f"a volume of shape {cut.shape} was not cut by a box of {self.shape}")
        volume = np.full(self.whole, fill, dtype=cut.dtype)
        volume[self._slices()] = cut
        return volume

    def lost(self, mask: NDArray[np.bool_], grid: Grid) -> Loss:
        """Say what of a whole mask is outside of the box."""
        voxels = np.argwhere(mask)
        return _loss(np.asarray(self.start) - voxels, voxels - self.start - np.asarray(self.shape) + 1, grid)

    def _slices(self) -> tuple[slice, ...]:
        return tuple(slice(a, a + n) for a, n in zip(self.start, self.shape, strict=True))

    def as_json(self) -> dict[str, Any]:
        """Return what a sidecar needs to paste back."""
        return {"kind": "box", "whole": list(self.whole), "start": list(self.start), "shape": list(self.shape)}


Crop = Following | Box


def crop_from_json(document: dict[str, Any]) -> Crop:
    """Return the crop that a sidecar holds."""
    x, y, z = document["whole"]
    if document["kind"] == "box":
        return Box((x, y, z), _three(document["start"]), _three(document["shape"]))
    width, height = document["size"]
    starts = np.asarray(document["starts"], dtype=np.int64).reshape(-1, 2)
    return Following((x, y, z), int(document["first"]), starts, (int(width), int(height)))


def _three(numbers: Sequence[int]) -> tuple[int, int, int]:
    x, y, z = (int(number) for number in numbers)
    return x, y, z


def faces_of(letter: str) -> tuple[str, str]:
    """Return the faces at the start and the end of an axis with that letter of SCT's."""
    pair = PAIR_OF_LETTER[letter]
    return pair if pair[0].startswith(letter.lower()) else (pair[1], pair[0])


def _loss(below: NDArray[np.int64], above: NDArray[np.int64], grid: Grid) -> Loss:
    """Count voxels with a positive distance to the outside; distances (N, 3) in voxels beyond each face."""
    distances = {}
    for axis, letter in enumerate(grid.orientation):
        for face, beyond in zip(faces_of(letter), (below[:, axis], above[:, axis]), strict=True):
            if len(beyond) and beyond.max() > 0:
                distances[face] = float(beyond.max()) * grid.spacing_mm[axis]
    outside = np.asarray((np.maximum(below, above) > 0).any(axis=1))
    return Loss(voxels=int(outside.sum()), of=len(outside), mm=distances)
