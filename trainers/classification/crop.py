"""The part of a case that a classifier looks at: what is not zero, and of that the region of interest with a margin."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trainers.classification.images import RawCase

OUTSIDE = -1  # in a mask: background beyond the image's content, or beyond the region of interest
DIGITS = 9  # of a margin that count: 0.05 * 140 is a little more than 7

Box = tuple[tuple[int, int], ...]  # first index and last index plus one along each axis


@dataclass(frozen=True, kw_only=True)
class CroppedCase:
    """A case cut to its box; the mask says `OUTSIDE` where nothing of interest is."""

    images: NDArray[np.float32]  # (C, Z, Y, X)
    mask: NDArray[np.int16]  # (Z, Y, X); ones where there is no region of interest
    spacing: tuple[float, ...]  # mm along Z, Y and X
    box: Box  # in the image
    shape: tuple[int, ...]  # of the image


def crop(case: RawCase, margin: float) -> CroppedCase:
    """Cut a case to its content, then to its region of interest and `margin` times its extent on each side."""
    shape = case.images.shape[1:]
    mask = np.ones(shape, np.int16) if case.mask is None else case.mask.copy()
    content = (case.images != 0).any(axis=0)
    if content.any():
        content = ndimage.binary_fill_holes(content)
        mask[(mask == 0) & ~content] = OUTSIDE
        outer = tight_box(content)
    else:
        outer = tuple((0, size) for size in shape)
    if case.mask is None:
        box = outer
    else:
        region = ndimage.binary_fill_holes(case.mask != 0)
        mask[(mask == 0) & ~region] = OUTSIDE
        inner = with_margin(tight_box(region), shape, margin)
        box = tuple((max(a, c), min(b, d)) for (a, b), (c, d) in zip(outer, inner, strict=True))
        if any(low >= high for low, high in box):  # the region lies where the image is 0
            box = inner
    inside = tuple(slice(low, high) for low, high in box)
    return CroppedCase(
        images=np.ascontiguousarray(case.images[(slice(None), *inside)]),
        mask=np.ascontiguousarray(mask[inside]),
        spacing=case.spacing,
        box=box,
        shape=shape,
    )


def tight_box(mask: NDArray[np.bool_]) -> Box:
    """Return the box of the voxels that are true; there must be one."""
    return tuple((int(edge.start), int(edge.stop)) for edge in ndimage.find_objects(mask.astype(np.int8))[0])


def margin_voxels(extent: int, margin: float) -> int:
    """Return the voxels that are kept on each side of a region: a share of its extent, rounded up.

    >>> [margin_voxels(extent, 0.05) for extent in (1, 19, 20, 100, 140)]
    [1, 1, 1, 5, 7]
    """
    return math.ceil(round(extent * margin, DIGITS))


def with_margin(box: Box, shape: tuple[int, ...], margin: float) -> Box:
    """Return the box with its margins, clipped to the image."""
    return tuple(
        (max(0, low - margin_voxels(high - low, margin)), min(size, high + margin_voxels(high - low, margin)))
        for (low, high), size in zip(box, shape, strict=True)
    )
