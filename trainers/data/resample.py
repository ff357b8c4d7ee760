"""Volumes on another grid, with nnU-Net's values in a fraction of its time.

nnU-Net resizes with `skimage.transform.resize`: cubic B-splines for images (order 3, edge values beyond the border,
clipped to the range of the input), linear interpolation of each label's indicator and the largest one wins for label
maps. Along an axis of thick slices it takes the nearest slice instead. All of this is linear and separable: resizing
an identity matrix along one axis gives that axis's operator, and three small matrix products give the volume.

Axes are (Z, Y, X), the order of nnU-Net's arrays; sample i of n lies at (i + 0.5) / n of the field of view.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

ANISOTROPY = 3.0  # nnU-Net: an axis more than three times as coarse as another one is resampled on its own
ROWS = 64  # of an operator that are applied at once
NEGLIGIBLE = 1e-9  # weights of an image's operator below this are left out; B-splines decay by 3.7 a sample
ALL_AXES = 3


def new_shape(shape: Sequence[int], spacing: Sequence[float], target: Sequence[float]) -> tuple[int, ...]:
    """Return the number of samples along each axis at the target spacing (mm)."""
    return tuple(round(old / new * size) for old, new, size in zip(spacing, target, shape, strict=True))


def slice_axis(spacing: Sequence[float], target: Sequence[float]) -> int | None:
    """Return the axis that nnU-Net resamples on its own, None where there is none.

    The coarsest axis of the image, or of the target, if it is more than three times as coarse as the finest, and
    the only one that coarse.
    """
    for voxel in (spacing, target):
        if max(voxel) / min(voxel) > ANISOTROPY:
            coarse = [axis for axis, size in enumerate(voxel) if size == max(voxel)]
            return coarse[0] if len(coarse) == 1 else None
    return None


def resample_image(
    volume: NDArray[np.floating[Any]], shape: Sequence[int], axis: int | None = None
) -> NDArray[np.float32]:
    """Return an image (Z, Y, X) on the grid of `shape` samples, float32.

    Cubic B-splines; nearest slice along `axis`, whose slices are then clipped to their own range each.
    """
    image = np.ascontiguousarray(volume, dtype=np.float32)
    if image.shape == tuple(shape):
        return image
    in_plane = [a for a in range(ALL_AXES) if a != axis]
    kept = None if axis is None else tuple(in_plane)
    low, high = image.min(axis=kept, keepdims=True), image.max(axis=kept, keepdims=True)
    # The axis that shrinks most goes first: less is left for the others.
    for a in sorted(in_plane, key=lambda a: shape[a] / image.shape[a]):
        if image.shape[a] != shape[a]:
            image = _apply(_cubic(image.shape[a], shape[a]), image, a)
    np.clip(image, low, high, out=image)
    if axis is not None and image.shape[axis] != shape[axis]:
        image = image.take(nearest_slice(image.shape[axis], shape[axis]), axis)
    return image


def resample_labels(
    labels: NDArray[np.integer[Any]], shape: Sequence[int], axis: int | None = None
) -> NDArray[np.integer[Any]]:
    """Return a label map (Z, Y, X) on the grid of `shape` samples, in its own type.

    The label with the largest linearly interpolated indicator wins; a tie goes to the nearest voxel's label if that
    is among the tied ones, else to the smallest. Nearest slice along `axis`. As batchgenerators 0.25.5 does it.
    """
    if labels.shape == tuple(shape):
        return labels
    plane = list(shape)
    if axis is not None:
        plane[axis] = labels.shape[axis]
    found = _resize_labels(labels, tuple(plane), axis)
    if axis is not None and plane[axis] != shape[axis]:
        found = found.take(nearest_slice(plane[axis], shape[axis]), axis)
    return found


def _resize_labels(
    labels: NDArray[np.integer[Any]], shape: tuple[int, ...], axis: int | None
) -> NDArray[np.integer[Any]]:
    """Resize by the largest indicator, computed only where more than one label has a say."""
    counts = np.unique(labels, return_counts=True)
    common = counts[0][np.argmax(counts[1])]
    result = np.full(shape, common, dtype=labels.dtype)
    if len(counts[0]) == 1:
        return result
    inside, outside, steps = [], [], []
    for a, (lower, upper) in enumerate(_bounds(labels != common)):
        if shape[a] == labels.shape[a] or a == axis:
            inside.append(slice(lower, upper))
            outside.append(slice(lower, upper))
            continue
        left, right, weight, nearest = linear(labels.shape[a], shape[a])
        touched = np.flatnonzero((right >= lower) & (left < upper))
        first, last = int(touched[0]), int(touched[-1]) + 1
        start, stop = int(left[first:last].min()), int(right[first:last].max()) + 1
        part = slice(first, last)
        steps.append((a, left[part] - start, right[part] - start, weight[part], nearest[part] - start))
        inside.append(slice(start, stop))
        outside.append(slice(first, last))
    block = labels[tuple(inside)]

    def blend(values: NDArray[np.float64]) -> NDArray[np.float64]:
        for a, left, right, weight, _ in steps:
            weights = weight.reshape([-1 if b == a else 1 for b in range(ALL_AXES)])
            values = values.take(left, a) * (1 - weights) + values.take(right, a) * weights
        return values

    near = block
    for a, _, _, _, nearest in steps:
        near = near.take(nearest, a)
    result[tuple(outside)] = _winners(block, counts[0], near, blend)
    return result


def _winners(
    block: NDArray[Any], labels: NDArray[Any], near: NDArray[Any], blend: Callable[[Any], Any]
) -> NDArray[Any]:
    """Return the label with the largest score for each voxel; `near` breaks ties."""
    best = np.full(near.shape, -1.0)
    near_score = best.copy()
    winner = np.empty_like(near)
    for label in labels:
        score = blend((block == label).astype(np.float64))
        better = score > best
        winner[better] = label
        np.copyto(near_score, score, where=near == label)
        np.maximum(best, score, out=best)
    return np.where(near_score == best, near, winner)


def _bounds(mask: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Return the first and the last index plus one of the mask along each axis."""
    found = []
    for a in range(ALL_AXES):
        along = np.flatnonzero(mask.any(axis=tuple(b for b in range(ALL_AXES) if b != a)))
        found.append((int(along[0]), int(along[-1]) + 1))
    return found


def _apply(operator: tuple[tuple[int, int, int, int, Any], ...], volume: Any, axis: int) -> Any:
    """Apply a banded operator (rows, columns) along an axis, block by block."""
    size = operator[-1][1]
    shape = [size if a == axis else n for a, n in enumerate(volume.shape)]
    result = np.empty(shape, dtype=np.float32)
    for first, last, start, stop, block in operator:
        if axis == 0:
            flat = volume.reshape(volume.shape[0], -1)[start:stop]
            np.matmul(block, flat, out=result.reshape(size, -1)[first:last])
        elif axis == 1:
            np.matmul(block, volume[:, start:stop], out=result[:, first:last])
        else:
            np.matmul(volume[:, :, start:stop], block.T, out=result[:, :, first:last])
    return result


@lru_cache(maxsize=64)
def _cubic(size: int, new: int) -> tuple[tuple[int, int, int, int, NDArray[np.float32]], ...]:
    """Return the operator of one axis as blocks (first row, last row, first column, last column, weights)."""
    operator = ndimage.zoom(np.eye(size), (new / size, 1), order=3, mode="nearest", grid_mode=True)
    blocks = []
    for first in range(0, new, ROWS):
        rows = operator[first : first + ROWS]
        used = np.flatnonzero((np.abs(rows) > NEGLIGIBLE).any(axis=0))
        start, stop = int(used[0]), int(used[-1]) + 1
        weights = np.ascontiguousarray(rows[:, start:stop], dtype=np.float32)
        blocks.append((first, first + len(rows), start, stop, weights))
    return tuple(blocks)


@lru_cache(maxsize=64)
def linear(size: int, new: int) -> tuple[Any, Any, Any, Any]:
    """Return for each new sample its left and right neighbour, the right one's weight, and the nearest sample."""
    place = np.clip((np.arange(new) + 0.5) * (size / new) - 0.5, 0, size - 1)
    left = np.minimum(np.floor(place).astype(np.int64), max(size - 2, 0))
    right = np.minimum(left + 1, size - 1)
    index = np.arange(size, dtype=np.float64)
    nearest = ndimage.zoom(index, new / size, order=0, mode="nearest", grid_mode=True).astype(np.int64)
    return left, right, place - left, nearest


@lru_cache(maxsize=64)
def nearest_slice(size: int, new: int) -> NDArray[np.int64]:
    """Return the slice that each new slice is a copy of."""
    place = size / new * (np.arange(new) + 0.5) - 0.5
    index = np.arange(size, dtype=np.float64)
    return np.asarray(ndimage.map_coordinates(index, place[None], order=0, mode="nearest"), dtype=np.int64)
