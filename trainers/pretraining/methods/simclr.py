"""SimCLR (Chen et al. 2020) for volumes: crops that overlap by half belong together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from trainers.nets.heads import EMBEDDING
from trainers.pretraining.contrast import nt_xent
from trainers.pretraining.crops import crop, varied
from trainers.pretraining.method import PRIMUS, RESENC, Draws, Net, Reading, Shape
from trainers.pretraining.methods.voco import embedder

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class SimCLR:
    """Hyper-parameters. Two crops of one image that do not belong together are told apart, too."""

    name: ClassVar[str] = "simclr"
    clip: ClassVar[dict[str, float | None]] = {RESENC: 0.1, PRIMUS: 1.0}
    tiny: ClassVar[dict[str, Any]] = {"patch": (32, 32, 16), "crop": (16, 16, 16), "embedding": 64}
    with_encoder: ClassVar[dict[str, dict[str, Any]]] = {}
    batch: ClassVar[int] = 32

    patch: Shape = (192, 192, 64)
    crop: Shape = (64, 64, 64)
    references: int = 2  # crops of an image that get a partner
    overlap: float = 0.5  # of a crop and its partner along each axis, at least
    temperature: float = 0.5
    embedding: int = EMBEDDING

    @property
    def seen(self) -> Shape:
        """Return the crop."""
        return self.crop

    def reading(self) -> Reading:
        """Return patches anywhere, as they are; 0 beyond the image."""
        return Reading(patch=self.patch)

    def views(self, images: Tensor, weight: Tensor, draws: Draws) -> dict[str, Tensor]:  # noqa: ARG002
        """Return crops and their partners (B * references, 1, z, y, x)."""
        first, second = [], []
        for volume in images:
            for corner, partner in zip(*self.corners(draws.rng), strict=True):
                first.append(crop(volume, corner, self.crop))
                second.append(crop(volume, partner, self.crop))
        crops = varied(torch.stack(first + second), draws)
        return dict(zip(("first", "second"), crops.chunk(2), strict=True))

    def corners(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Draw the corners (references, 3) of crops in a patch and of their partners."""
        room = np.array(self.patch) - np.array(self.crop)
        first = rng.integers(0, room + 1, (self.references, 3))
        furthest = ((1 - self.overlap) * np.array(self.crop)).astype(int)
        second = first + rng.integers(-furthest, furthest + 1, first.shape)
        return first, np.clip(second, 0, room)

    def module(self, net: Net) -> nn.Module:
        """Return an encoder with a projector behind it."""
        return embedder(net, self.embedding)

    def losses(self, module: nn.Module, views: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the contrastive loss, and how many crops are nearest to their partner (chance: 1 / (crops - 1))."""
        first, second = module(torch.cat([views["first"], views["second"]])).chunk(2)
        loss, found = nt_xent(first, second, self.temperature)
        return {"loss": loss, "accuracy": found}
