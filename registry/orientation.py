"""Orientation codes of images, in the two conventions that the field mixes up.

The Spinal Cord Toolbox (SCT), ITK-SNAP and `image_orientation` in dataset.json name each voxel axis by the side where
it STARTS; nibabel names it by the side where it ENDS. Swapping every letter with its opposite converts either way. All
48 codes of one convention are valid in the other, so no schema notices a mix-up: always print both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PAIRS = ("RL", "AP", "IS")
OPPOSITE = str.maketrans("RLAPIS", "LRPASI")


def is_valid(code: object) -> bool:
    """Whether the code is three capitals, one of each pair R/L, A/P, I/S."""
    return isinstance(code, str) and len(code) == len(PAIRS) and all(len(set(pair) & set(code)) == 1 for pair in PAIRS)


def to_nibabel(code: str) -> str:
    """Return nibabel's letters for SCT's.

    >>> to_nibabel("RPI")
    'LAS'
    """
    return code.translate(OPPOSITE)


def from_nibabel(code: str) -> str:
    """Return SCT's letters for nibabel's; the same swap, which is its own inverse.

    >>> from_nibabel("LAS")
    'RPI'
    """
    return code.translate(OPPOSITE)


def describe(code: str) -> str:
    """Return the code in both conventions.

    >>> describe("RPI")
    'RPI (SCT; nibabel LAS)'
    """
    return f"{code} (SCT; nibabel {to_nibabel(code)})"


def of_affine(affine: NDArray[np.floating[Any]]) -> str:
    """Return SCT's code of an image's affine (4, 4); of an oblique one the nearest."""
    import nibabel as nib

    return from_nibabel("".join(letter or "?" for letter in nib.aff2axcodes(affine)))


def reorient(array: NDArray[Any], affine: NDArray[np.float64], code: str) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Return a volume (x, y, z) and its affine in another orientation of SCT's, by flips and axis swaps only.

    No voxel is resampled, and none moves: the way back to the old code restores the volume.
    """
    import nibabel as nib
    from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, ornt_transform

    way = ornt_transform(nib.io_orientation(affine), axcodes2ornt(tuple(to_nibabel(code))))
    return apply_orientation(array, way), affine @ inv_ornt_aff(way, array.shape)
