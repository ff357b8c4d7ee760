"""A net slid along the cord: overlapping patches, blended so that their borders do not show."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor, nn

    from trainers.lesion.config import LesionSettings

AT_ONCE = 4  # patches
EDGE_WEIGHT = 0.05  # of a patch's border beside its middle


def predict_volume(
    module: nn.Module,
    image: NDArray[np.float32],
    settings: LesionSettings,
    device: torch.device,
    *,
    mirror: bool = False,
) -> NDArray[np.float32]:
    """Return the probability (x, y, z) of a standardised volume (x, y, z); 0 in the margin around a window.

    With `mirror`, the mean over all flips that the net was trained with.
    """
    volume = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 1, 0)))
    margin = settings.geometry.margin if settings.geometry.crop == "window" else 0
    inner = volume[:, margin : volume.shape[1] - margin, margin : volume.shape[2] - margin].to(device)
    axes = tuple({"IS": 2, "AP": 3, "RL": 4}[name] for name in settings.mirror) if mirror else ()
    found = _blend(module, inner, settings.patch, settings.overlap, axes)
    probability = torch.zeros(volume.shape)
    probability[:, margin : volume.shape[1] - margin, margin : volume.shape[2] - margin] = found.cpu()
    return np.ascontiguousarray(probability.numpy().transpose(2, 1, 0))


def starts(size: int, patch: int, overlap: float) -> list[int]:
    """Return where patches begin along an axis: evenly spaced, the last one anchored at the end.

    >>> starts(110, 48, 0.5)
    [0, 21, 41, 62]
    """
    if size <= patch:
        return [0]
    count = int(np.ceil((size - patch) / (patch * (1 - overlap)))) + 1
    return [round(place) for place in np.linspace(0, size - patch, count)]


def _blend(module: nn.Module, volume: Tensor, patch: Sequence[int], overlap: float, axes: tuple[int, ...]) -> Tensor:
    """Return weighted means of the patches' probabilities; a volume smaller than a patch is padded with its edge."""
    short = [max(0, n - size) for n, size in zip(patch, volume.shape, strict=True)]
    padding = [part for gap in reversed(short) for part in (gap // 2, gap - gap // 2)]
    padded = functional.pad(volume[None, None], padding, mode="replicate")[0, 0] if any(short) else volume
    places = list(product(*(starts(size, n, overlap) for size, n in zip(padded.shape, patch, strict=True))))
    weight = _weight(patch).to(volume.device)
    total, weights = torch.zeros_like(padded), torch.zeros_like(padded)
    for first in range(0, len(places), AT_ONCE):
        chosen = places[first : first + AT_ONCE]
        boxes = [tuple(slice(a, a + n) for a, n in zip(place, patch, strict=True)) for place in chosen]
        batch = torch.stack([padded[box] for box in boxes])[:, None]
        for box, probability in zip(boxes, _probability(module, batch, axes), strict=True):
            total[box] += probability[0] * weight
            weights[box] += weight
    result = total / weights
    back = tuple(slice(gap // 2, gap // 2 + size) for gap, size in zip(short, volume.shape, strict=True))
    return result[back]


@torch.no_grad()
def _probability(module: nn.Module, batch: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Return probabilities (B, 1, Z, Y, X), the mean over all flips along the axes."""
    flips: list[tuple[int, ...]] = [()]
    for axis in axes:
        flips += [(*flip, axis) for flip in flips]
    total = torch.zeros_like(batch)
    for flip in flips:
        total += module(batch.flip(flip)).float().sigmoid().flip(flip)
    return total / len(flips)


def _weight(patch: Sequence[int]) -> Tensor:
    """Return a pyramid that falls from 1 in the middle to nearly 0 at the border."""
    result = torch.ones(tuple(patch))
    for axis, size in enumerate(patch):
        away = (torch.arange(size) + 0.5 - size / 2).abs() / (size / 2)
        edge = (1 - away).clamp(min=EDGE_WEIGHT)
        result *= edge.view([-1 if a == axis else 1 for a in range(len(patch))])
    return result
