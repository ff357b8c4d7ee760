"""Masked autoencoder (He et al. 2022), as of OpenMind (Wald et al. 2025): restore three quarters of a patch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from trainers.data.augment import Augmentation
from trainers.nets.primus import Eva, Primus, PrimusConfig
from trainers.nets.resenc import ResEncConfig, unet
from trainers.pretraining.masks import block_grid, hidden_error, opened, random_blocks
from trainers.pretraining.method import PRIMUS, RESENC, Draws, Net, Reading, Shape

if TYPE_CHECKING:
    from collections.abc import Mapping

DECODER_DEPTH = 2
TOKEN_SPREAD = 1e-6


@dataclass(frozen=True, kw_only=True)
class MAE:
    """Hyper-parameters; a ResEnc gets zeros for closed blocks, a Primus is not given the tokens of closed blocks."""

    name: ClassVar[str] = "mae"
    clip: ClassVar[dict[str, float | None]] = {RESENC: 12.0, PRIMUS: 1.0}
    tiny: ClassVar[dict[str, Any]] = {"patch": (32, 32, 32), "block": 8}
    with_encoder: ClassVar[dict[str, dict[str, Any]]] = {PRIMUS: {"block": 8}}
    batch: ClassVar[int] = 8

    patch: Shape = (160, 160, 160)
    mask_ratio: float = 0.75
    block: int = 16  # voxels along an axis; a Primus hides its tokens
    p_rotation: float = 0.2
    rotation_degrees: float = 30.0  # at most, about each axis
    p_scaling: float = 0.2
    scaling: tuple[float, float] = (0.7, 1.4)

    @property
    def seen(self) -> Shape:
        """Return the patch."""
        return self.patch

    def reading(self) -> Reading:
        """Return patches anywhere, turned, scaled and mirrored; intensities stay."""
        return Reading(patch=self.patch, augmentation=turning(self))

    def views(self, images: Tensor, weight: Tensor, draws: Draws) -> dict[str, Tensor]:
        """Return the patches and which of their blocks are open, the same number in each."""
        grid = block_grid(self.patch, self.block)
        return {"image": images, "weight": weight, "blocks": random_blocks(len(images), grid, self.mask_ratio, draws)}

    def module(self, net: Net) -> nn.Module:
        """Return a U-Net or Primus that restores."""
        return MaskedUNet(net) if isinstance(net, ResEncConfig) else MaskedPrimus(net, self.mask_ratio)

    def losses(self, module: nn.Module, views: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the squared error of what was hidden."""
        found = module(views["image"], views["blocks"])
        return {"loss": hidden_error(found, views["image"], views["blocks"], views["weight"])}


def turning(method: Any) -> Augmentation:
    """Return rotation, scaling and mirroring with the method's fields, and nothing else."""
    angle = math.radians(method.rotation_degrees)
    return Augmentation(
        patch=method.patch, p_rotation=method.p_rotation, rotation=(-angle, angle), p_scaling=method.p_scaling,
        scaling=method.scaling, scaling_around_one=True, p_noise=0, p_blur=0, p_brightness=0, p_contrast=0,
        p_low_resolution=0, p_inverted_gamma=0, p_gamma=0,
    )  # fmt: skip


class MaskedUNet(nn.Module):
    """A U-Net that gets the open blocks of an image; parameters have the names of the plain net."""

    def __init__(self, config: ResEncConfig) -> None:
        super().__init__()
        plain = unet(config.with_outputs(1))
        self.encoder, self.decoder = plain.encoder, plain.decoder

    def forward(self, image: Tensor, blocks: Tensor) -> Tensor:
        """Return the image (B, 1, Z, Y, X), closed blocks made up."""
        return self.decoder(self.encoder(opened(image, blocks)))  # type: ignore[no-any-return, operator]


class MaskedPrimus(Primus):
    """A Primus that gets the open tokens of an image, and two blocks more that make up the others."""

    def __init__(self, config: PrimusConfig, mask_ratio: float = 0.75) -> None:
        super().__init__(config.with_outputs(1))
        self._open = config.tokens - int(mask_ratio * config.tokens)
        self.mask_token = nn.Parameter(torch.randn(1, 1, config.width) * TOKEN_SPREAD)
        self.decoder = Eva(config, DECODER_DEPTH)

    def forward(self, image: Tensor, blocks: Tensor | None = None) -> Tensor:
        """Return the image (B, 1, Z, Y, X); `blocks` (B, 1, z, y, x) is 1 where a token is open."""
        if blocks is None:
            raise ValueError("a masked Primus needs the map of open tokens")
        keep = kept(self.to_row(blocks)[..., 0], self._open)
        seen = self.eva(self.embed(image), keep)
        row = self.mask_token.to(seen.dtype).expand(len(image), self.config.tokens, -1)
        row = row.scatter(1, keep[..., None].expand_as(seen), seen)
        return self.decode(self.decoder(row))


def kept(row: Tensor, count: int) -> Tensor:
    """Return the numbers (B, count) of the open ones of tokens (B, N), in their order; all have as many.

    The count is told, not counted, so that a GPU is not waited for.
    """
    return row.topk(count, dim=1).indices.sort(dim=1).values
