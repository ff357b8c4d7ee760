"""Volumes on another grid with the same axes: images by linear interpolation, masks with the volume that they had.

Beyond the last voxel's centre the edge value holds. With zeros there, as many programs fill in, whole planes of the
result are empty: every tenth one where slices of 7.5 mm become 0.5 mm, and empty planes bend every percentile.

A mask is not thresholded: which of `> 0.5` and `>= 0.5` is written can change its volume by 9 %. Each of its connected
parts gets as many voxels as its volume asks for, those with the largest interpolated indicator.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from trainers.data.grid import Grid

DIGITS = 6  # of an indicator: differences beyond are rounding, and ties are broken on purpose
TOUCHING = np.ones((3, 3, 3))  # parts that share a face, an edge or a corner are one
SAME = 1e-9


def resample_image(volume: NDArray[Any], old: Grid, new: Grid) -> NDArray[np.float32]:
    """Return an image (x, y, z) at the samples of another grid: linear, edge values beyond; float32."""
    image = np.asarray(volume, dtype=np.float32)
    for axis, places in enumerate(new.places_in(old)):
        image = _linear(image, places, axis)
    return np.ascontiguousarray(image)


def resample_mask(mask: NDArray[np.bool_], old: Grid, new: Grid) -> NDArray[np.bool_]:
    """Return a mask (x, y, z) on another grid, its volume kept to a voxel; no connected part vanishes."""
    result = np.zeros(new.shape, dtype=bool)
    parts, count = ndimage.label(mask, structure=TOUCHING)
    if not count:
        return result
    sizes = np.bincount(parts.ravel(), minlength=count + 1)[1:]
    wanted = _apportion(sizes * (old.voxel_mm3 / new.voxel_mm3))
    places = new.places_in(old)
    for number, box in enumerate(ndimage.find_objects(parts), start=1):
        _draw_part(result, parts, number, box, places, int(wanted[number - 1]))
    return result


def resample_probability(volume: NDArray[np.float32], old: Grid, new: Grid) -> NDArray[np.float32]:
    """Return a probability (x, y, z) on another grid: means over coarser voxels, linear between finer ones.

    The mean keeps the volume of what is thick enough; linear interpolation at the centre of a thick slice would see
    two planes of the fifteen that lie in it. Beyond the old grid the probability is 0.
    """
    found = np.asarray(volume, dtype=np.float32)
    for axis, places in enumerate(new.places_in(old)):
        step = float(places[1] - places[0]) if len(places) > 1 else 1.0
        if step > 1 + SAME:
            found = np.moveaxis(np.tensordot(_means(found.shape[axis], places, step), found, (1, axis)), 0, axis)
        else:
            outside = (places < -0.5 - SAME) | (places > found.shape[axis] - 0.5 + SAME)
            found = _linear(found, places, axis)
            found[tuple(outside if a == axis else slice(None) for a in range(found.ndim))] = 0
    return np.ascontiguousarray(found)


def _linear(volume: NDArray[np.float32], places: NDArray[np.float64], axis: int) -> NDArray[np.float32]:
    """Interpolate along an axis; edge values beyond the first and last sample."""
    size = volume.shape[axis]
    place = np.clip(places, 0, size - 1)
    near = np.round(place)
    place = np.where(np.abs(place - near) < SAME, near, place)  # rounding of affines must not blend voxels
    if len(place) == size and np.array_equal(place, np.arange(size)):
        return volume
    left = np.minimum(np.floor(place).astype(np.intp), max(size - 2, 0))
    right = np.minimum(left + 1, size - 1)
    weight = (place - left).astype(np.float32).reshape([-1 if a == axis else 1 for a in range(volume.ndim)])
    low = volume.take(left, axis)
    low += (volume.take(right, axis) - low) * weight
    return low


def _means(size: int, places: NDArray[np.float64], step: float) -> NDArray[np.float32]:
    """Return the operator (new, old) of means over intervals of `step` samples around each place."""
    edges = np.arange(size + 1) - 0.5
    lower, upper = (places - step / 2)[:, None], (places + step / 2)[:, None]
    overlap = np.clip(np.minimum(upper, edges[1:]) - np.maximum(lower, edges[:-1]), 0, None)
    weights: NDArray[np.float32] = (overlap / step).astype(np.float32)
    return weights


def _apportion(shares: NDArray[Any]) -> NDArray[np.int64]:
    """Round numbers so that their sum is the rounded sum: the largest remainders are rounded up; at least 1 each."""
    whole: NDArray[np.int64] = np.maximum(np.floor(shares), 1).astype(np.int64)
    short = round(float(shares.sum())) - int(whole.sum())
    if short > 0:
        order = np.argsort(-(shares - whole), kind="stable")
        whole[order[:short]] += 1
    return whole


def _draw_part(
    result: NDArray[np.bool_],
    parts: NDArray[Any],
    number: int,
    box: tuple[slice, ...],
    places: Sequence[NDArray[np.float64]],
    wanted: int,
) -> None:
    """Draw one connected part into `result` with `wanted` voxels."""
    # Where the part ends within the image its indicator falls to 0 over one more voxel; at the border it is held.
    wide = [slice(max(edge.start - 1, 0), min(edge.stop + 1, n)) for edge, n in zip(box, parts.shape, strict=True)]
    part = parts[tuple(wide)] == number
    score, target, at = part.astype(np.float32), [], []
    for axis, (edge, place) in enumerate(zip(wide, places, strict=True)):
        clipped = np.clip(place, 0, parts.shape[axis] - 1)
        reached = np.flatnonzero((clipped > edge.start - 1) & (clipped < edge.stop))
        if not len(reached):  # finer than one new voxel
            reached = np.array([np.abs(clipped - (edge.start + edge.stop - 1) / 2).argmin()])
        target.append(slice(int(reached[0]), int(reached[-1]) + 1))
        at.append(clipped[target[-1]] - edge.start)
        score = _linear(score, at[-1], axis)
    score = score.round(DIGITS)
    centre = ndimage.center_of_mass(part)
    away = sum(
        ((p - c) ** 2).reshape([-1 if a == axis else 1 for a in range(score.ndim)])
        for axis, (p, c) in enumerate(zip(at, centre, strict=True))
    )
    order = np.lexsort((np.asarray(away).round(DIGITS).ravel(), -score.ravel()))[:wanted]
    chosen = np.zeros(score.size, dtype=bool)
    chosen[order] = True
    result[tuple(target)] |= chosen.reshape(score.shape)
