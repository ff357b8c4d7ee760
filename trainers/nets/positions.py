"""Where a token lies: rotary embeddings of a 3D grid, and learned tables for another grid or another order."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

LONGEST_WAVE = 10000.0
AXES = 3


def rotary_table(grid: Sequence[int], size: int) -> tuple[Tensor, Tensor]:
    """Return cosines and sines (N, size) of the angles by which the features of N = Z * Y * X tokens are turned.

    `size` features of a head serve the three axes in turn, size / 6 frequencies each; a frequency turns a pair.
    """
    bands = size // (2 * AXES)
    frequencies = LONGEST_WAVE ** (-torch.arange(bands, dtype=torch.float32) / bands)
    places = torch.meshgrid(*(torch.arange(n, dtype=torch.float32) for n in grid), indexing="ij")
    angles = torch.cat([place.reshape(-1, 1) * frequencies for place in places], dim=1).repeat_interleave(2, dim=1)
    return angles.cos(), angles.sin()


def rotate(features: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Turn the pairs (0, 1), (2, 3) ... of features (..., N, size); in the type of the widest of the arguments."""
    turned = torch.stack((-features[..., 1::2], features[..., ::2]), dim=-1).flatten(-2)
    return features * cosines + turned * sines


def resized_table(table: Tensor, grid: Sequence[int], new: Sequence[int]) -> Tensor:
    """Return a learned table (1, N, width) of a grid (Z, Y, X) for another grid, by trilinear interpolation."""
    if tuple(grid) == tuple(new):
        return table
    volume = table.reshape(1, *grid, -1).movedim(-1, 1)
    moved = functional.interpolate(volume.float(), size=tuple(new), mode="trilinear", align_corners=False)
    return moved.to(table.dtype).movedim(1, -1).reshape(1, -1, table.shape[-1])


def swapped_table(table: Tensor, grid: Sequence[int]) -> Tensor:
    """Return a table (1, N, width), its tokens in the order (Y, Z, X), with its rows in the order (Z, Y, X).

    `grid` is (Z, Y, X). Published weights of nnssl but SimMIM's number their tokens with the first two axes swapped.
    """
    z, y, x = grid
    return table.reshape(1, y, z, x, -1).transpose(1, 2).reshape(1, z * y * x, -1)


def unswapped(weights: Mapping[str, Tensor], key: str, grid: Sequence[int], heads: int) -> dict[str, Tensor]:
    """Return weights of a Primus that numbers its tokens (Y, Z, X) as those of one that numbers them (Z, Y, X).

    Both give the same output, exactly: beside the table below `key` the features of queries and keys that were turned
    by the first and by the second axis change places, which no product of a query and a key notices.
    """
    found = dict(weights)
    found[f"{key}.pos_embed"] = swapped_table(weights[f"{key}.pos_embed"], grid)
    for name, value in weights.items():
        if name.startswith(f"{key}.blocks.") and name.endswith(("q_proj.weight", "q_proj.bias", "k_proj.weight")):
            by_axis = value.reshape(heads, AXES, -1, *value.shape[1:])
            found[name] = by_axis[:, [1, 0, 2]].reshape(value.shape)
    return found
