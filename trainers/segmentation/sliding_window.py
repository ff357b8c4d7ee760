"""A network run over a volume tile by tile: nnU-Net's logits, in the memory of a few tiles' rows.

Tiles, weights, order of the sums and their type (16 bits) are nnU-Net's, so that the logits are its own to the last
bit wherever the network's are. What differs: several tiles at one go, and as soon as no tile to come reaches a row of
the volume its logits are handed on, so that neither logits nor weights of a whole volume are ever held.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import chain, combinations, product
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from scipy import ndimage
from torch.nn import functional

from trainers.core.environment import bf16_here
from trainers.core.errors import TrainingError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from torch import Tensor, nn

T = TypeVar("T")
STEP = 0.5  # of a tile, from one to the next
SIGMA = 1 / 8  # of a tile: width of the weights
PEAK = 10.0  # largest weight: keeps small ones and their products with logits within 16 bits
ACTIVATIONS = 32 * 6 * 4  # bytes that a network of 32 features at full resolution needs for a voxel
VOXELS_AT_ONCE = {"cpu": 1 << 18, "cuda": 1 << 21}  # more of them do not make a network faster


def tile_starts(size: int, tile: int) -> list[int]:
    """Return where tiles begin along an axis of at least a tile's size: evenly, at most half a tile apart."""
    count = math.ceil((size - tile) / (tile * STEP)) + 1
    apart = (size - tile) / (count - 1) if count > 1 else 0.0
    return [round(apart * index) for index in range(count)]


def tile_weights(tile: Sequence[int]) -> Tensor:
    """Return the weight of each voxel of a tile in 16 bits: a Gaussian around its middle, nowhere zero."""
    weights = np.ones((1,) * len(tile))
    for axis, size in enumerate(tile):
        middle = np.zeros(size)
        middle[size // 2] = 1
        bell = ndimage.gaussian_filter(middle, size * SIGMA, mode="constant")
        weights = weights * bell.reshape([-1 if a == axis else 1 for a in range(len(tile))])
    found = torch.from_numpy(weights / (weights.max() / PEAK)).half()
    found[found == 0] = found[found > 0].min()
    return found


def inference_type(wanted: str, device: torch.device) -> torch.dtype:
    """Return the type that a network computes in: `auto`, `native` (nnU-Net's own) or `bf16`.

    `auto` is bfloat16 on a CPU that has it, else `native`: float16 on CUDA, which is as fast there and keeps more
    digits, float32 elsewhere.
    """
    if wanted == "bf16" or (wanted == "auto" and device.type == "cpu" and bf16_here(device)):
        return torch.bfloat16
    return torch.float16 if device.type == "cuda" else torch.float32


@dataclass(frozen=True, kw_only=True)
class SlidingWindow:
    """A network and how it is run over a volume."""

    network: nn.Module
    tile: tuple[int, ...]  # (Z, Y, X), or (Y, X) of a flat network, which is run slice by slice
    device: torch.device
    weights: tuple[Mapping[str, Tensor], ...] = ()  # state dicts whose logits are averaged; none: the network's own
    mirror_axes: tuple[int, ...] = ()  # of the tile; the logits of all flips are averaged
    precision: torch.dtype = torch.float32

    @property
    def depth(self) -> int:
        """Return the rows of a tile along the volume's first axis."""
        return self.tile[0] if len(self.tile) == 3 else 1  # noqa: PLR2004 - Z, Y, X

    @property
    def at_once(self) -> int:
        """Return the number of tiles that the network gets at one go."""
        return max(1, VOXELS_AT_ONCE.get(self.device.type, 0) // math.prod(self.tile))

    def nbytes(self, size: Sequence[int], classes: int) -> int:
        """Return about the most memory that a volume of `size` (Z, Y, X) needs beside itself."""
        row = classes * math.prod(max(n, t) for n, t in zip(size[1:], self.tile[-2:], strict=True))
        rows = self.depth if self.depth > 1 else self.at_once
        tiles = self.at_once * math.prod(self.tile) * ACTIVATIONS
        return tiles + 2 * row * rows * (4 + len(self.weights) // 2)

    @torch.inference_mode()
    def slabs(self, volume: Tensor, storage: torch.dtype = torch.float16) -> Iterator[Tensor]:
        """Yield the logits (classes, rows, Y, X) of a volume (channels, Z, Y, X), from its first rows to its last.

        They lie on the device, in the type of `storage`. Raises OverflowError where they do not fit into it, and
        `TrainingError` where the network gives no numbers.
        """
        size, tile = volume.shape[1:], (self.depth, *self.tile[-2:])
        before = [max(0, t - n) // 2 for t, n in zip(tile, size, strict=True)]
        padded = [max(t, n) for t, n in zip(tile, size, strict=True)]
        rows, *columns = (tile_starts(n, t) for n, t in zip(padded, tile, strict=True))
        bell = tile_weights(self.tile).to(self.device, storage).reshape(tile)
        self.network.to(self.device).eval()
        folds: list[Tensor | None] = [None] * max(1, len(self.weights))
        total: Tensor | None = None
        # A flat network's tiles share nothing from slice to slice, so that those of several go together.
        groups = _batches(rows, 1 if self.depth > 1 else max(1, self.at_once // math.prod(map(len, columns))))
        for number, group in enumerate(groups):
            top, bottom = group[0], group[-1] + tile[0]
            done = (groups[number + 1][0] if number + 1 < len(groups) else bottom) - top
            part = _padded(volume, (top, bottom), before, padded).to(self.device)
            places = [
                tuple(slice(start, start + length) for start, length in zip((row - top, *starts), tile, strict=True))
                for row in group
                for starts in product(*columns)
            ]
            total = _grown(total, part.new_zeros((bottom - top, *padded[1:]), dtype=storage))
            for place in places:
                total[place] += bell
            mean: Tensor | None = None
            for fold in range(len(folds)):
                if self.weights and (len(self.weights) > 1 or number == 0):
                    self.network.load_state_dict(self.weights[fold])
                sums = folds[fold] = self._summed(part, places, bell, folds[fold])
                logits = sums[:, :done] / total[:done]
                mean = logits if mean is None else mean.add_(logits)
                folds[fold] = sums[:, done:].clone()  # a view would keep all of it
            assert mean is not None  # noqa: S101 - there is a fold
            if len(folds) > 1:
                mean /= len(folds)
            total = total[done:]
            _check(mean)
            yield mean[_inside(top, done, before, size)]

    def _summed(self, part: Tensor, places: list[tuple[slice, ...]], bell: Tensor, before: Tensor | None) -> Tensor:
        """Return the weighted sums of the logits of a part's tiles, on top of those that earlier tiles left."""
        sums: Tensor | None = None
        for some in _batches(places, self.at_once):
            tiles = torch.stack([part[(slice(None), *place)] for place in some])
            logits = self._logits(tiles)
            for place, found in zip(some, logits, strict=True):
                if sums is None:
                    sums = _grown(before, part.new_zeros((found.shape[0], *part.shape[1:]), dtype=bell.dtype))
                sums[(slice(None), *place)] += found.mul_(bell)
        assert sums is not None  # noqa: S101 - there is a tile
        return sums

    def _logits(self, tiles: Tensor) -> Tensor:
        """Return the network's float32 logits of tiles (N, channels, Z, Y, X), averaged over the flips."""
        flips = list(
            chain.from_iterable(combinations(self.mirror_axes, n) for n in range(1, len(self.mirror_axes) + 1))
        )
        flat = len(self.tile) == 2  # noqa: PLR2004 - Y, X
        tiles = tiles.squeeze(2) if flat else tiles
        with self._autocast():
            mean: Tensor = self.network(tiles).float()
            for flip in flips:
                axes = [axis + 2 for axis in flip]
                mean += self.network(tiles.flip(axes)).float().flip(axes)
        if flips:
            mean /= len(flips) + 1
        return mean.unsqueeze(2) if flat else mean

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.precision == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.precision)


def _batches(items: list[T], size: int) -> list[list[T]]:
    return [items[first : first + size] for first in range(0, len(items), size)]


def _grown(rest: Tensor | None, zeros: Tensor) -> Tensor:
    """Return zeros whose first rows are what is left of the rows before."""
    if rest is not None:
        zeros[..., : rest.shape[-3], :, :] = rest
    return zeros


def _padded(volume: Tensor, rows: tuple[int, int], before: list[int], padded: list[int]) -> Tensor:
    """Return rows of a volume that is padded with zeros around, without padding the rest."""
    size = volume.shape[1:]
    first, last = (min(max(row - before[0], 0), size[0]) for row in rows)
    part = volume[:, first:last]
    low = [first - (rows[0] - before[0]), *before[1:]]
    high = [rows[1] - before[0] - last, *(p - b - n for p, b, n in zip(padded[1:], before[1:], size[1:], strict=True))]
    if not any(low) and not any(high):
        return part
    return functional.pad(part, (low[2], high[2], low[1], high[1], low[0], high[0]))


def _inside(top: int, done: int, before: list[int], size: Sequence[int]) -> tuple[slice, ...]:
    """Return the part of finished rows that is not padding."""
    first = max(before[0] - top, 0)
    last = min(before[0] + size[0] - top, done)
    return (
        slice(None), slice(first, last),
        slice(before[1], before[1] + size[1]), slice(before[2], before[2] + size[2]),
    )  # fmt: skip


def _check(logits: Tensor) -> None:
    """Refuse what cannot become a label map."""
    if not torch.isfinite(logits).all():
        if torch.isnan(logits).any():
            raise TrainingError("the network gives values that are not numbers: its weights are damaged")
        raise OverflowError("logits beyond the storage's largest number")
