"""The 3D U-Net of the first spinal cord lesion models (Gros et al., NeuroImage 2019), in its own few layers.

Two convolutions of 3³ on each level, the second twice as wide; maxima of 2³ on the way down; on the way up voxels are
repeated and joined to the level's features. With depth 3 and base 16 there are 983,553 parameters. The published net
has batch normalisation; with batches of two, of which most patches are drawn around lesions, its running means are
those of another kind of data than the one predicted, so instance normalisation is the default.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True, kw_only=True)
class UNet3DConfig:
    """Size of the net; a patch is divisible by `reduction`."""

    depth: int = 3
    base: int = 16
    channels_in: int = 1
    channels_out: int = 1
    norm: Literal["instance", "batch"] = "instance"

    @property
    def reduction(self) -> int:
        """Return how much coarser the last level is than the image."""
        return int(2 ** (self.depth - 1))


class UNet3D(nn.Module):
    """Images (B, C, Z, Y, X) to logits (B, outputs, Z, Y, X)."""

    def __init__(self, config: UNet3DConfig) -> None:
        super().__init__()
        widths = [config.base * 2 ** (level + 1) for level in range(config.depth)]
        before = [config.channels_in, *widths[:-1]]
        self.down = nn.ModuleList(
            nn.Sequential(_layer(first, width // 2, config.norm), _layer(width // 2, width, config.norm))
            for first, width in zip(before, widths, strict=True)
        )
        self.up = nn.ModuleList(
            nn.Sequential(_layer(below + width, width, config.norm), _layer(width, width, config.norm))
            for below, width in zip(widths[:0:-1], widths[-2::-1], strict=True)
        )
        self.head = nn.Conv3d(widths[0], config.channels_out, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits."""
        features, skips = images, []
        for level, block in enumerate(self.down):
            features = block(functional.max_pool3d(features, 2) if level else features)
            skips.append(features)
        for block, skip in zip(self.up, skips[-2::-1], strict=True):
            larger = functional.interpolate(features, scale_factor=2.0, mode="nearest")
            features = block(torch.cat([larger, skip], dim=1))
        logits: Tensor = self.head(features)
        return logits


def _layer(channels_in: int, channels: int, norm: str) -> nn.Module:
    kind = nn.BatchNorm3d(channels) if norm == "batch" else nn.InstanceNorm3d(channels, affine=True)
    return nn.Sequential(nn.Conv3d(channels_in, channels, 3, padding=1), kind, nn.ReLU(inplace=True))
