"""Operators of one axis: scaling, blur and lowered resolution of an image as a product with one matrix an axis."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

WIDEST_KERNEL = 6.0  # a blur's kernel spans about this many standard deviations in all


def scaling(new: int, size: int, scale: float, centre: float, device: torch.device) -> Tensor | None:
    """Return the operator (new, size) of linear interpolation at centre + scale * offset, zero outside.

    Offsets are those of `new` samples around their middle; None where it would be a copy.
    """
    place = centre + scale * (np.arange(new) - (new - 1) / 2)
    left = np.floor(place).astype(int)
    weight = place - left
    if len(place) == size and not weight.any() and np.array_equal(left, np.arange(size)):
        return None
    operator = np.zeros((len(place), size), dtype=np.float32)
    rows = np.arange(len(place))
    for index, share in ((left, 1 - weight), (left + 1, weight)):
        inside = (index >= 0) & (index < size)
        operator[rows[inside], index[inside]] += share[inside]
    return torch.from_numpy(operator).to(device)


def along_axes(volumes: Tensor, operators: Sequence[Tensor | None]) -> Tensor:
    """Apply one operator (new, old), or one a volume (N, new, old), along each axis of (N, Z, Y, X) or (N, Y, X)."""
    last = len(operators) - 1
    for axis, operator in enumerate(operators):
        if operator is None:
            continue
        if axis == last:
            turned = operator.transpose(-1, -2)
            each = turned if turned.ndim == 2 else turned.reshape(len(turned), *[1] * (last - 1), *turned.shape[1:])  # noqa: PLR2004
            volumes = volumes @ each
        else:
            shape = volumes.shape
            each = operator if operator.ndim == 2 else operator.reshape(len(operator), *[1] * axis, *operator.shape[1:])  # noqa: PLR2004
            flat = each @ volumes.reshape(*shape[: axis + 2], -1)
            volumes = flat.reshape(*shape[: axis + 1], -1, *shape[axis + 2 :])
    return volumes


def blurs(size: int, sigmas: Sequence[float]) -> NDArray[np.float32]:
    """Return Gaussian filters (N, size, size), mirrored at the borders."""
    operator = np.zeros((len(sigmas), size, size), dtype=np.float32)
    rows = np.arange(size)
    for found, sigma in zip(operator, sigmas, strict=True):
        half = min(_kernel_size(sigma) // 2, size - 1)
        offsets = np.arange(-half, half + 1)
        weights = np.exp(-0.5 * (offsets / sigma) ** 2)
        for offset, weight in zip(offsets, weights / weights.sum(), strict=True):
            column = np.abs(rows + offset)
            column = np.where(column >= size, 2 * (size - 1) - column, column)
            np.add.at(found, (rows, column), weight)
    return operator


def _kernel_size(sigma: float) -> int:
    """Return batchgenerators' odd number of samples of a kernel."""
    wanted = sigma * WIDEST_KERNEL + 0.5
    rounded = round(wanted)
    if rounded % 2:
        return rounded
    return rounded + 1 if wanted >= rounded else rounded - 1


def resolutions(size: int, scales: Sequence[float]) -> NDArray[np.float32] | None:
    """Return operators (N, size, size): the nearest of fewer samples, then linear interpolation between these."""
    if all(round(size * scale) == size for scale in scales):
        return None
    operator = np.zeros((len(scales), size, size), dtype=np.float32)
    rows = np.arange(size)
    for found, scale in zip(operator, scales, strict=True):
        fewer = max(1, round(size * scale))
        kept = np.floor((np.arange(fewer) + 0.5) * (size / fewer)).astype(int)
        place = np.clip((rows + 0.5) * (fewer / size) - 0.5, 0, fewer - 1)
        left = np.floor(place).astype(int)
        right = np.minimum(left + 1, fewer - 1)
        np.add.at(found, (rows, kept[left]), 1 - (place - left))
        np.add.at(found, (rows, kept[right]), place - left)
    return operator
