"""Where a volume's voxels lie in space, and the grids made from it: another orientation, another spacing, a part.

A grid is the shape of a volume (x, y, z) with an affine that takes voxel indices to millimetres in nibabel's world
(towards right, anterior, superior). Each way from one grid to another here has a way back.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from nibabel.affines import apply_affine, voxel_sizes

from trainers.data.orientation import Reorientation, of_affine

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

Alignment = Literal["centre", "sct"]
AXES = 3


@dataclass(frozen=True, eq=False)
class Grid:
    """The shape (x, y, z) of a volume and its affine (4, 4) in mm."""

    shape: tuple[int, int, int]
    affine: NDArray[np.float64]

    @classmethod
    def of(cls, image: Any) -> Self:
        """Return the grid of a nibabel image; a 2D file is one slice."""
        x, y, z = (*image.shape, 1)[:AXES]
        return cls((int(x), int(y), int(z)), np.asarray(image.affine, dtype=np.float64))

    @cached_property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Return the distance of neighbouring voxels along each axis."""
        x, y, z = (float(size) for size in voxel_sizes(self.affine))
        return x, y, z

    @property
    def voxel_mm3(self) -> float:
        """Return the volume of a voxel."""
        return abs(float(np.linalg.det(self.affine[:AXES, :AXES])))

    @property
    def orientation(self) -> str:
        """Return SCT's letters; of an oblique grid the nearest."""
        return of_affine(self.affine)

    def to_world(self, voxels: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return points (N, 3) in mm for voxel coordinates (N, 3)."""
        return np.asarray(apply_affine(self.affine, voxels), dtype=np.float64)

    def to_voxels(self, points_mm: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return voxel coordinates (N, 3) for points (N, 3) in mm."""
        return np.asarray(apply_affine(np.linalg.inv(self.affine), points_mm), dtype=np.float64)

    def contains(self, voxels: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Return which voxel coordinates (N, 3) lie in the field of view, which ends half a voxel beyond centres."""
        centre = (np.asarray(self.shape) - 1) / 2
        return np.asarray((np.abs(voxels - centre) <= centre + 1 / 2).all(axis=1))

    def oriented(self, code: str) -> tuple[Grid, Reorientation]:
        """Return the grid with its axes in SCT's orientation `code`, and the way there."""
        way = Reorientation.to(code, self.affine)
        turn = np.zeros((AXES + 1, AXES + 1))  # from new voxel indices to old ones
        turn[-1, -1] = 1
        for old, (new, flipped) in enumerate(zip(way.axes, way.flips, strict=True)):
            turn[old, new] = -1 if flipped else 1
            turn[old, -1] = self.shape[old] - 1 if flipped else 0
        x, y, z = (self.shape[way.axes.index(axis)] for axis in range(AXES))
        return Grid((x, y, z), self.affine @ turn), way

    def spaced(self, spacing_mm: Sequence[float], alignment: Alignment = "centre") -> Grid:
        """Return the grid of the same field of view with voxels of another size.

        `centre` gives exactly that size around the image's centre: the field of view changes by half a new voxel at
        most on either side, and nothing moves. `sct` is the Spinal Cord Toolbox's grid: the first voxel's centre is
        kept, which moves the field of view by half the change of voxel size, and sizes are only nearly those wanted.
        """
        old = np.asarray(self.spacing_mm)
        count = [max(1, round(n * p / q)) for n, p, q in zip(self.shape, old, spacing_mm, strict=True)]
        x, y, z = count
        if alignment == "sct":
            scale, first = np.asarray(self.shape) / count, np.zeros(AXES)
        else:
            scale = np.asarray(spacing_mm) / old
            first = (np.asarray(self.shape) - 1) / 2 - scale * (np.asarray(count) - 1) / 2
        step = np.diag([*scale, 1.0])
        step[:AXES, -1] = first
        return Grid((x, y, z), self.affine @ step)

    def part(self, start: Sequence[int], shape: Sequence[int]) -> Grid:
        """Return the grid of a box of that shape whose first voxel is `start`; it may reach beyond this grid."""
        x, y, z = (int(size) for size in shape)
        step = np.eye(AXES + 1)
        step[:AXES, -1] = start
        return Grid((x, y, z), self.affine @ step)

    def same_as(self, other: Grid, tolerance_mm: float = 1e-2) -> bool:
        """Whether both have the same voxels in the same places."""
        return self.shape == other.shape and np.allclose(self.affine, other.affine, rtol=0, atol=tolerance_mm)

    def places_in(self, other: Grid) -> tuple[NDArray[np.float64], ...]:
        """Return, for each axis, where this grid's samples lie along the same axis of the other, in its voxels.

        Raises `ValueError` where the axes are not the same: orient one of the grids first.
        """
        between = np.linalg.inv(other.affine) @ self.affine
        steps = np.diag(between)[:AXES]
        rest = between[:AXES, :AXES] - np.diag(steps)
        if (steps <= 0).any() or np.abs(rest).max() > 1e-6 * np.abs(steps).max():
            raise ValueError(f"grids {self.orientation} and {other.orientation} do not share their axes")
        return tuple(between[axis, -1] + steps[axis] * np.arange(self.shape[axis]) for axis in range(AXES))

    def as_json(self) -> dict[str, Any]:
        """Return the grid for a sidecar; all digits of the affine are kept."""
        return {"shape": list(self.shape), "affine": self.affine.tolist(), "orientation": self.orientation}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Self:
        """Return the grid that a sidecar holds."""
        x, y, z = document["shape"]
        return cls((int(x), int(y), int(z)), np.asarray(document["affine"], dtype=np.float64))
