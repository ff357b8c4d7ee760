"""The residual-encoder U-Net (ResEnc) of nnU-Net, built by `dynamic-network-architectures`, by size.

Only the library's convolutional half is imported; its Primus would bring timm and torchvision along. Every convolution
stands in the state dict under several names (`.conv` and `.all_modules.0`, and the encoder again below
`decoder.encoder`): those are one tensor each, and what reads nnU-Net's checkpoints expects them all.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from dynamic_network_architectures.architectures.unet import ResidualEncoderUNet
from dynamic_network_architectures.building_blocks.residual_encoders import ResidualEncoder
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Sequence

ENCODER_KEY, STEM_KEY = "encoder.stages", "encoder.stem"
INPUT_KEYS = ("encoder.stem.convs.0.conv", "encoder.stem.convs.0.all_modules.0")
TYPES = ("conv_op", "norm_op", "dropout_op", "nonlin")  # arguments that are classes


@dataclass(frozen=True, kw_only=True)
class ResEncConfig:
    """Size of a ResEnc. The defaults are ResEnc-L, 102,348,965 parameters with one output.

    Every stage after the first halves the resolution, so a patch is divisible by `2 ** (stages - 1)`.
    """

    features: tuple[int, ...] = (32, 64, 128, 256, 320, 320)  # channels of each stage
    blocks: tuple[int, ...] = (1, 3, 4, 6, 6, 6)  # residual blocks of each stage
    channels_in: int = 1
    channels_out: int = 1

    def __post_init__(self) -> None:
        if len(self.features) != len(self.blocks):
            raise ValueError(f"features {self.features} and blocks {self.blocks} differ in length")

    @property
    def reduction(self) -> int:
        """Return how much coarser the last stage is than the image."""
        return int(2 ** (len(self.features) - 1))

    def with_outputs(self, channels: int) -> ResEncConfig:
        """Return the same size with another number of outputs."""
        return replace(self, channels_out=channels)

    def keywords(self) -> dict[str, Any]:
        """Return the library's arguments but for numbers of channels in and out, as nnU-Net's plans hold them."""
        stages = len(self.features)
        return {
            "n_stages": stages,
            "features_per_stage": list(self.features),
            "conv_op": "torch.nn.modules.conv.Conv3d",
            "kernel_sizes": [[3, 3, 3]] * stages,
            "strides": [[1, 1, 1]] + [[2, 2, 2]] * (stages - 1),
            "n_blocks_per_stage": list(self.blocks),
            "n_conv_per_stage_decoder": [1] * (stages - 1),
            "conv_bias": True,
            "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
            "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        }


def unet(config: ResEncConfig, norm: type[nn.Module] = nn.InstanceNorm3d) -> nn.Module:
    """Return the U-Net: images (B, C, Z, Y, X) to (B, outputs, Z, Y, X)."""
    keywords = _with_classes(config, norm)
    net: nn.Module = ResidualEncoderUNet(
        input_channels=config.channels_in, num_classes=config.channels_out, deep_supervision=False, **keywords
    )
    for layer in net.decoder.seg_layers[:-1]:  # type: ignore[union-attr, index]
        layer.requires_grad_(False)  # without deep supervision nothing comes out of them
    return net


def encoder(config: ResEncConfig) -> nn.Module:
    """Return the encoder alone: images (B, C, Z, Y, X) to a list of feature maps, finest first."""
    keywords = _with_classes(config, nn.InstanceNorm3d)
    del keywords["n_conv_per_stage_decoder"]
    net: nn.Module = ResidualEncoder(input_channels=config.channels_in, return_skips=True, **keywords)
    return net


def pooled(skips: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return the mean of every channel of every stage, (B, sum of features)."""
    return torch.cat([skip.mean(dim=(2, 3, 4)) for skip in skips], dim=1)


def _with_classes(config: ResEncConfig, norm: type[nn.Module]) -> dict[str, Any]:
    classes = {"conv_op": nn.Conv3d, "norm_op": norm, "dropout_op": None, "nonlin": nn.LeakyReLU}
    return {**config.keywords(), **classes}
