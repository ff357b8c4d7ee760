"""SimMIM (Xie et al. 2022) for volumes: a Transformer over all tokens, three quarters of them blank."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from trainers.nets.primus import SPREAD, Primus, PrimusConfig
from trainers.pretraining.masks import block_grid, hidden_error, random_blocks
from trainers.pretraining.method import PRIMUS, Draws, Net, Reading, Shape
from trainers.pretraining.methods.mae import turning

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, kw_only=True)
class SimMIM:
    """Hyper-parameters; about four times the work of MAE, since blank tokens go through the encoder, too."""

    name: ClassVar[str] = "simmim"
    clip: ClassVar[dict[str, float | None]] = {PRIMUS: 1.0}
    tiny: ClassVar[dict[str, Any]] = {"patch": (32, 32, 32)}
    with_encoder: ClassVar[dict[str, dict[str, Any]]] = {}
    batch: ClassVar[int] = 8

    patch: Shape = (160, 160, 160)
    mask_ratio: float = 0.75
    block: int = 8  # the encoder's token
    p_rotation: float = 0.2
    rotation_degrees: float = 30.0
    p_scaling: float = 0.2
    scaling: tuple[float, float] = (0.7, 1.4)

    @property
    def seen(self) -> Shape:
        """Return the patch."""
        return self.patch

    def reading(self) -> Reading:
        """Return what MAE reads."""
        return Reading(patch=self.patch, augmentation=turning(self))

    def views(self, images: Tensor, weight: Tensor, draws: Draws) -> dict[str, Tensor]:
        """Return the patches and which of their tokens are open."""
        blocks = random_blocks(len(images), block_grid(self.patch, self.block), self.mask_ratio, draws)
        return {"image": images, "weight": weight, "blocks": blocks}

    def module(self, net: Net) -> nn.Module:
        """Return a Primus with a learned blank token."""
        if not isinstance(net, PrimusConfig):
            raise TypeError("simmim needs a Transformer")
        return BlankedPrimus(net)

    def losses(self, module: nn.Module, views: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the squared error of what was hidden; squared as in OpenMind, not absolute as in SimMIM's paper."""
        found = module(views["image"], views["blocks"])
        return {"loss": hidden_error(found, views["image"], views["blocks"], views["weight"])}


class BlankedPrimus(Primus):
    """A Primus that gets a learned token in place of each closed one, before it is told the places."""

    def __init__(self, config: PrimusConfig) -> None:
        super().__init__(config.with_outputs(1))
        self.mask_token = nn.Parameter(torch.randn(1, 1, config.width) * SPREAD)

    def forward(self, image: Tensor, blocks: Tensor | None = None) -> Tensor:
        """Return the image (B, 1, Z, Y, X); `blocks` (B, 1, z, y, x) is 1 where a token is open."""
        if blocks is None:
            raise ValueError("SimMIM needs the map of open tokens")
        row = self.embed(image)
        return self.decode(self.eva(torch.where(self.to_row(blocks) > 0, row, self.mask_token.to(row.dtype))))
