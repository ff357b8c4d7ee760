"""I3D, the inflated Inception-v1 of Carreira and Zisserman (CVPR 2017), with a linear head for each label.

Layers and widths are those of the RGB network; total stride 8 along the first axis and 32 along the others, so the
first one should be the axis of the thickest slices. Padding is TensorFlow's "same".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import nn
from torch.nn import functional

from trainers.nets.norms import BatchNorm

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

Kernel = tuple[int, int, int]
Widths = tuple[int, int, int, int, int, int]

STEP = 8  # widths are multiples of it, and groups of a group norm this wide
VIDEO_POOL: Kernel = (2, 2, 7)
# Widths of a block's branches: 1; 1 then 3; 1 then 3; pool then 1.
MIXED: dict[str, Widths] = {
    "3b": (64, 96, 128, 16, 32, 32),
    "3c": (128, 128, 192, 32, 96, 64),
    "4b": (192, 96, 208, 16, 48, 64),
    "4c": (160, 112, 224, 24, 64, 64),
    "4d": (128, 128, 256, 24, 64, 64),
    "4e": (112, 144, 288, 32, 64, 64),
    "4f": (256, 160, 320, 32, 128, 128),
    "5b": (256, 160, 320, 32, 128, 128),
    "5c": (384, 192, 384, 48, 128, 128),
}


@dataclass(frozen=True, kw_only=True)
class I3DConfig:
    """What an I3D is made of."""

    channels: int  # of the image
    classes: tuple[int, ...]  # of each head
    width: float = 1.0  # share of the published channels
    norm: Literal["batch", "group"] = "batch"
    pool: Literal["global", "video"] = "global"
    dropout: float = 0.0

    def scaled(self, channels: int) -> int:
        """Return a number of channels of this width."""
        return max(STEP, round(channels * self.width / STEP) * STEP)


def same_padding(sizes: Sequence[int], kernel: Kernel, stride: Kernel) -> list[int]:
    """Return padding before and after each axis, in the order of `functional.pad`: the last axis first."""
    padding: list[int] = []
    for size, k, s in zip(sizes, kernel, stride, strict=True):
        total = max((-(-size // s) - 1) * s + k - size, 0)
        padding = [total // 2, total - total // 2, *padding]
    return padding


class Unit(nn.Module):
    """Convolution without bias, normalisation, ReLU."""

    def __init__(self, config: I3DConfig, inputs: int, outputs: int, kernel: int = 1, stride: int = 1) -> None:
        super().__init__()
        self.kernel, self.stride = (kernel,) * 3, (stride,) * 3
        self.pointwise = kernel == stride == 1
        self.conv = nn.Conv3d(inputs, outputs, kernel, stride, bias=False)
        self.norm = BatchNorm(outputs) if config.norm == "batch" else nn.GroupNorm(outputs // STEP, outputs)

    def forward(self, volume: Tensor) -> Tensor:
        """Map (B, C, Z, Y, X) to (B, C', Z/s, Y/s, X/s), rounded up."""
        if self.pointwise and volume.device.type == "cpu":
            # A product of matrices: on one core torch's own gradient of such convolutions takes half of a step.
            found = torch.matmul(self.conv.weight.flatten(1), volume.flatten(2)).view(
                len(volume), -1, *volume.shape[2:]
            )
            return functional.relu(self.norm(found), inplace=True)
        padding = same_padding(volume.shape[2:], self.kernel, self.stride)
        if any(padding):
            volume = functional.pad(volume, padding)
        return functional.relu(self.norm(self.conv(volume)), inplace=True)


class Pool(nn.Module):
    """Largest value of a window; what is padded is 0, the least that a ReLU leaves."""

    def __init__(self, kernel: Kernel, stride: Kernel) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, volume: Tensor) -> Tensor:
        """Map (B, C, Z, Y, X) to (B, C, Z/s, Y/s, X/s), rounded up."""
        padded = functional.pad(volume, same_padding(volume.shape[2:], self.kernel, self.stride))
        return functional.max_pool3d(padded, self.kernel, self.stride)


class Mixed(nn.Module):
    """Four branches side by side."""

    def __init__(self, config: I3DConfig, inputs: int, widths: Widths) -> None:
        super().__init__()
        one, in_three, three, in_small, small, pooled = (config.scaled(width) for width in widths)
        self.branches = nn.ModuleList([
            Unit(config, inputs, one),
            nn.Sequential(Unit(config, inputs, in_three), Unit(config, in_three, three, 3)),
            nn.Sequential(Unit(config, inputs, in_small), Unit(config, in_small, small, 3)),
            nn.Sequential(Pool((3, 3, 3), (1, 1, 1)), Unit(config, inputs, pooled)),
        ])  # fmt: skip
        self.outputs = one + three + small + pooled

    def forward(self, volume: Tensor) -> Tensor:
        """Map (B, C, Z, Y, X) to (B, C', Z, Y, X)."""
        return torch.cat([branch(volume) for branch in self.branches], dim=1)


class I3D(nn.Module):
    """Whole volumes to one list of logits a label."""

    def __init__(self, config: I3DConfig) -> None:
        super().__init__()
        self.config = config
        stem, middle = config.scaled(64), config.scaled(192)
        in_plane: tuple[Kernel, Kernel] = ((1, 3, 3), (1, 2, 2))
        layers: list[nn.Module] = [
            Unit(config, config.channels, stem, 7, 2), Pool(*in_plane),
            Unit(config, stem, stem), Unit(config, stem, middle, 3), Pool(*in_plane),
        ]  # fmt: skip
        width = middle
        pools = {"4b": Pool((3, 3, 3), (2, 2, 2)), "5b": Pool((2, 2, 2), (2, 2, 2))}  # before these blocks
        for name, widths in MIXED.items():
            if name in pools:
                layers.append(pools[name])
            block = Mixed(config, width, widths)
            layers.append(block)
            width = block.outputs
        self.encoder = nn.Sequential(*layers)
        self.dropout = nn.Dropout(config.dropout)
        self.heads = nn.ModuleList(nn.Linear(width, classes) for classes in config.classes)

    def features(self, volume: Tensor) -> Tensor:
        """Map (B, C, Z, Y, X) to (B, F)."""
        found: Tensor = self.encoder(volume)
        if self.config.pool == "video":
            depth, height, width = (min(n, k) for n, k in zip(found.shape[2:], VIDEO_POOL, strict=True))
            found = functional.avg_pool3d(found, (depth, height, width), 1)
        return found.mean(dim=(2, 3, 4))

    def forward(self, volume: Tensor) -> list[Tensor]:
        """Map (B, C, Z, Y, X) to logits (B, k), one tensor a label."""
        found = self.dropout(self.features(volume))
        return [head(found) for head in self.heads]
