"""A convolutional encoder that sees the open part of an image only (SparK; Tian et al. 2023), and what fills the gaps.

After every convolution and pooling what is closed is set to zero again, and norms take their statistics from what is
open. The network's parameters and their names are untouched: its weights are those of a plain ResEnc.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from trainers.nets.resenc import ResEncConfig, unet

if TYPE_CHECKING:
    from collections.abc import Sequence

TOKEN_SPREAD = 0.02


def at_resolution(blocks: Tensor, shape: Sequence[int]) -> Tensor:
    """Return a map of blocks (B, 1, z, y, x) on a grid as fine or finer; a coarser one is open everywhere."""
    if any(size < blocks.shape[axis] for axis, size in enumerate(shape, start=2)):
        return blocks.new_ones((len(blocks), 1, *shape))
    for axis, size in enumerate(shape, start=2):
        blocks = blocks.repeat_interleave(size // blocks.shape[axis], dim=axis)
    return blocks


class OpenNorm(nn.InstanceNorm3d):
    """Instance norm over the open voxels, over all where nothing is closed; the same number is open in every sample."""

    blocks: Tensor | None = None

    def forward(self, features: Tensor) -> Tensor:
        """Return (B, C, Z, Y, X), 0 where it is closed."""
        if self.blocks is None:
            return super().forward(features)
        is_open = at_resolution(self.blocks, features.shape[2:])
        wide = features.float()
        count = is_open.sum(dim=(2, 3, 4), keepdim=True)
        mean = (wide * is_open).sum(dim=(2, 3, 4), keepdim=True) / count
        centred = (wide - mean) * is_open
        normed = centred * torch.rsqrt(centred.square().sum(dim=(2, 3, 4), keepdim=True) / count + self.eps)
        if self.affine:
            normed = (normed * self.weight.view(-1, 1, 1, 1) + self.bias.view(-1, 1, 1, 1)) * is_open
        return normed.to(features.dtype)


class Filling(nn.Module):
    """Puts a learned token where features are closed, before a decoder reads them."""

    def __init__(self, channels: int, *, conv: bool) -> None:
        super().__init__()
        self.norm = OpenNorm(channels, affine=False)
        self.token = nn.Parameter(torch.zeros(1, channels, 1, 1, 1))
        self.conv: nn.Module = nn.Conv3d(channels, channels, 3, padding=1) if conv else nn.Identity()
        nn.init.trunc_normal_(self.token, std=TOKEN_SPREAD, a=-TOKEN_SPREAD, b=TOKEN_SPREAD)

    def forward(self, features: Tensor, blocks: Tensor) -> Tensor:
        """Return features (B, C, Z, Y, X) without gaps."""
        self.norm.blocks = blocks
        is_open = at_resolution(blocks, features.shape[2:])
        normed = self.norm(features)
        return self.conv(torch.where(is_open > 0, normed, self.token.to(normed.dtype)))  # type: ignore[no-any-return]


class SparseUNet(nn.Module):
    """A ResEnc U-Net whose encoder sees open blocks only. Its `encoder` and `decoder` carry the plain net's names."""

    encoder: Any
    decoder: Any

    def __init__(self, config: ResEncConfig) -> None:
        super().__init__()
        plain = unet(config, OpenNorm)
        self.encoder = plain.encoder
        self.decoder = plain.decoder
        self.fillings = nn.ModuleList(Filling(n, conv=stage > 0) for stage, n in enumerate(config.features))
        self._blocks: Tensor | None = None
        self._norms = [layer for layer in self.encoder.modules() if isinstance(layer, OpenNorm)]
        for layer in self.encoder.modules():
            if isinstance(layer, nn.Conv3d | nn.AvgPool3d):
                layer.register_forward_hook(self._close)

    def forward(self, image: Tensor, blocks: Tensor) -> Tensor:
        """Return (B, outputs, Z, Y, X) from an image and its map of blocks (B, 1, z, y, x), 1 where it is open."""
        self._see(blocks)
        try:
            skips = self.encoder(image * at_resolution(blocks, image.shape[2:]))
        finally:
            self._see(None)
        skips = [filling(skip, blocks) for filling, skip in zip(self.fillings, skips, strict=True)]
        return self.decoder(skips)  # type: ignore[no-any-return]

    def _see(self, blocks: Tensor | None) -> None:
        self._blocks = blocks
        for norm in self._norms:
            norm.blocks = blocks

    def _close(self, _: nn.Module, __: Any, found: Tensor) -> Tensor:
        return found if self._blocks is None else found * at_resolution(self._blocks, found.shape[2:])
