"""Losses that compare embeddings with one another."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional

if TYPE_CHECKING:
    from torch import Tensor


def nt_xent(first: Tensor, second: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return the normalised temperature-scaled cross entropy (Chen et al. 2020) of pairs, and how many are found.

    Row i of `first` and of `second` (N, F) belong together; the other 2N - 2 embeddings are what each is told from.
    The second result is the share of embeddings that are nearest to their partner; by chance 1 / (2N - 1).
    """
    count = len(first)
    embeddings = functional.normalize(torch.cat([first, second]).float(), dim=1)
    with torch.autocast(first.device.type, enabled=False):  # bfloat16 cannot tell near neighbours apart
        likeness = embeddings @ embeddings.T / temperature
    likeness.fill_diagonal_(-torch.inf)
    partner = torch.arange(2 * count, device=likeness.device).roll(count)
    return functional.cross_entropy(likeness, partner), (likeness.argmax(1) == partner).float().mean()
