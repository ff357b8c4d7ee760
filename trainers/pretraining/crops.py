"""Crops of a patch, varied one by one, for the methods that compare embeddings of places."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from trainers.data.augment import Augmentation, Source, augment

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from trainers.pretraining.method import Draws, Shape

P_QUARTER_TURN = 0.3
VARIATION = Augmentation(patch=(64, 64, 64), p_rotation=0, p_scaling=0, p_low_resolution=0.1)


def crop(volume: Tensor, corner: Sequence[int], shape: Sequence[int]) -> Tensor:
    """Return a box of a volume (C, Z, Y, X)."""
    return volume[(slice(None), *(slice(int(c), int(c) + n) for c, n in zip(corner, shape, strict=True)))]


def varied(crops: Tensor, draws: Draws, variation: Augmentation = VARIATION) -> Tensor:
    """Return crops (N, 1, Z, Y, X), each with changes and turns of its own; none in validation."""
    if not draws.train:
        return crops
    shape: Shape = tuple(crops.shape[2:])  # type: ignore[assignment]
    variation = replace(variation, patch=shape)
    blank = torch.zeros(shape, dtype=torch.int16, device=crops.device)[None]
    sources = [Source(image=volume, labels=blank, corner=(0, 0, 0), whole=shape) for volume in crops]
    found, _ = augment(sources, [variation.draw(draws.rng, 1) for _ in sources], variation, draws.generator)
    for index in range(len(found)):
        if draws.rng.random() < P_QUARTER_TURN and shape[0] == shape[1]:
            found[index] = found[index].rot90(int(draws.rng.integers(1, 4)), (1, 2))
    return found
