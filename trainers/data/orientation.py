"""Bring a volume to a model's orientation and its prediction back, by swapping and flipping axes only.

Orientations are written in the letters of the Spinal Cord Toolbox (SCT), as `image_orientation` in dataset.json:
where each voxel axis starts. nibabel's letters say where an axis ends, so SCT's RPI is nibabel's LAS.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

OPPOSITE = {"R": "L", "L": "R", "A": "P", "P": "A", "I": "S", "S": "I"}
PAIRS = ("RL", "AP", "IS")


def to_nibabel(code: str) -> str:
    """Return nibabel's letters for SCT's, or SCT's for nibabel's: each letter becomes its opposite.

    >>> to_nibabel("RPI")
    'LAS'
    """
    return "".join(OPPOSITE[letter] for letter in code)


@dataclass(frozen=True)
class Reorientation:
    """How the axes of one grid become those of another: `axes[i]` is where its axis i goes, `flips[i]` if it turns."""

    axes: tuple[int, int, int]
    flips: tuple[bool, bool, bool]

    @classmethod
    def to(cls, code: str, affine: NDArray[np.float64]) -> Reorientation:
        """Return the way from the grid of `affine` to an orientation; of an oblique grid the nearest is meant.

        Raises `ValueError` for a code that is none and for an affine without three directions.
        """
        if len(code) != len(PAIRS) or any(len(set(pair) & set(code)) != 1 for pair in PAIRS):
            raise ValueError(f"{code!r} is not an orientation: one of R and L, one of A and P, one of I and S")
        start = nib.io_orientation(affine)
        if np.isnan(start).any():
            raise ValueError("the affine has a column of zeros")
        end = nib.orientations.axcodes2ornt(to_nibabel(code))
        way = nib.orientations.ornt_transform(start, end)
        first, second, third = (int(axis) for axis in way[:, 0])
        return cls((first, second, third), (bool(way[0, 1] < 0), bool(way[1, 1] < 0), bool(way[2, 1] < 0)))

    def apply(self, volume: NDArray[Any]) -> NDArray[Any]:
        """Return a view of a volume (x, y, z) in the new grid's axes."""
        turned: NDArray[Any] = np.flip(volume, self._turned).transpose(self._sources)
        return turned

    def undo(self, volume: NDArray[Any]) -> NDArray[Any]:
        """Return a view of a volume of the new grid in the axes of the old one."""
        back: NDArray[Any] = np.flip(volume.transpose(self.axes), self._turned)
        return back

    def spacing(self, spacing_mm: Sequence[float]) -> tuple[float, ...]:
        """Return the voxel size along the new grid's axes."""
        return tuple(float(spacing_mm[axis]) for axis in self._sources)

    @property
    def _turned(self) -> tuple[int, ...]:
        return tuple(axis for axis, flip in enumerate(self.flips) if flip)

    @property
    def _sources(self) -> tuple[int, ...]:
        """Return which old axis each new axis was."""
        return tuple(self.axes.index(axis) for axis in range(len(self.axes)))


def of_affine(affine: NDArray[np.float64]) -> str:
    """Return SCT's code of a grid.

    >>> of_affine(np.diag([-1.0, 1.0, 1.0, 1.0]))
    'RPI'
    """
    return to_nibabel("".join(nib.aff2axcodes(affine)))
