"""Blocks of a patch that a network does not see, and the error of what it makes up for them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from trainers.nets.sparse import at_resolution

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from trainers.pretraining.method import Draws, Shape


def random_blocks(batch: int, grid: Sequence[int], ratio: float, draws: Draws) -> Tensor:
    """Return maps (B, 1, z, y, x), 0 for exactly `int(ratio * blocks)` random blocks of each sample, else 1."""
    count = math.prod(grid)
    closed = draws.uniform((batch, count)).argsort(dim=1)[:, : int(ratio * count)]
    blocks = torch.ones((batch, count), device=closed.device).scatter_(1, closed, 0.0)
    return blocks.view(batch, 1, *grid)


def block_grid(patch: Shape, block: int) -> Shape:
    """Return the number of blocks along each axis; raise `ValueError` where a patch is not made of whole ones."""
    if any(size % block for size in patch):
        raise ValueError(f"patch {patch} is not divisible by blocks of {block} voxels")
    z, y, x = (size // block for size in patch)
    return z, y, x


def opened(image: Tensor, blocks: Tensor) -> Tensor:
    """Return images (B, 1, Z, Y, X) with 0, which is the image's mean, in closed blocks."""
    return image * at_resolution(blocks, image.shape[2:])


def hidden_error(found: Tensor, image: Tensor, blocks: Tensor, weight: Tensor) -> Tensor:
    """Return the mean squared error over the voxels of closed blocks, weighted."""
    share = (1 - at_resolution(blocks, image.shape[2:])) * weight
    return weighted_error(found, image, share)


def weighted_error(found: Tensor, image: Tensor, share: Tensor) -> Tensor:
    """Return the squared error's mean with a share for each voxel; 0 where nothing has one."""
    return ((found.float() - image).square() * share).sum() / share.sum().clamp(min=1e-8)
