"""VoCo (Wu et al. 2024): how much of a random crop lies in each cell of a grid, by comparing embeddings."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from trainers.nets.heads import EMBEDDING, Projector
from trainers.nets.primus import PrimusConfig, PrimusEncoder
from trainers.nets.resenc import ResEncConfig, encoder, pooled
from trainers.pretraining.crops import crop, varied
from trainers.pretraining.method import PRIMUS, RESENC, Draws, Net, Reading, Shape

if TYPE_CHECKING:
    from collections.abc import Mapping

TINY = 1e-6


@dataclass(frozen=True, kw_only=True)
class VoCo:
    """Hyper-parameters; a patch is a grid of base crops."""

    name: ClassVar[str] = "voco"
    clip: ClassVar[dict[str, float | None]] = {RESENC: None, PRIMUS: 1.0}
    tiny: ClassVar[dict[str, Any]] = {"crop": (16, 16, 16), "embedding": 64}
    with_encoder: ClassVar[dict[str, dict[str, Any]]] = {}
    batch: ClassVar[int] = 8

    crop: Shape = (64, 64, 64)
    grid: Shape = (4, 4, 1)  # base crops along each axis
    targets: int = 4  # random crops
    embedding: int = EMBEDDING

    @property
    def seen(self) -> Shape:
        """Return the crop."""
        return self.crop

    @property
    def patch(self) -> Shape:
        """Return the shape of the whole grid."""
        z, y, x = (n * size for n, size in zip(self.grid, self.crop, strict=True))
        return z, y, x

    def reading(self) -> Reading:
        """Return patches anywhere, as they are; 0 beyond the image."""
        return Reading(patch=self.patch)

    def views(self, images: Tensor, weight: Tensor, draws: Draws) -> dict[str, Tensor]:  # noqa: ARG002
        """Return base crops and targets (B, bases + targets, 1, z, y, x) and overlaps (B, targets, bases)."""
        bases = np.array(list(product(*(range(n) for n in self.grid)))) * self.crop
        room = np.array(self.patch) - np.array(self.crop)
        crops, overlaps = [], []
        for volume in images:
            corners = draws.rng.integers(0, room + 1, (self.targets, 3))
            crops += [crop(volume, corner, self.crop) for corner in (*bases, *corners)]
            overlaps.append(overlap(corners, bases, self.crop))
        found = varied(torch.stack(crops), draws)
        shares = torch.from_numpy(np.stack(overlaps)).to(images.device, torch.float32)
        return {"crops": found.unflatten(0, (len(images), -1)), "overlaps": shares}  # type: ignore[no-untyped-call]

    def module(self, net: Net) -> nn.Module:
        """Return an encoder with a projector behind it."""
        return embedder(net, self.embedding)

    def losses(self, module: nn.Module, views: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the loss of overlaps, and how often the cell with the largest overlap is found (chance: 1 / cells)."""
        overlaps = views["overlaps"]
        embeddings = module(views["crops"].flatten(0, 1)).float().view(len(overlaps), -1, self.embedding)
        bases, targets = embeddings.split([overlaps.shape[2], overlaps.shape[1]], dim=1)
        parts, likeness = voco_losses(bases, targets, overlaps)
        found = (likeness.argmax(2) == overlaps.argmax(2)).float().mean()
        return {"loss": sum(parts.values(), overlaps.new_zeros(())), **_detached(parts), "accuracy": found}


def overlap(corners: np.ndarray, bases: np.ndarray, shape: Shape) -> np.ndarray:
    """Return which share of each crop at `corners` (n, 3) lies in each one at `bases` (m, 3), as (n, m)."""
    sides = np.asarray(shape) - np.abs(corners[:, None] - bases[None])
    return np.asarray(np.clip(sides, 0, None).prod(-1) / np.prod(shape))


def voco_losses(bases: Tensor, targets: Tensor, overlaps: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """Return three losses of embeddings (B, bases, F) and (B, targets, F), and likenesses (B, targets, bases).

    `positive`: likenesses are overlaps; `negative`: none where there is no overlap; `spread`: base crops differ.
    """
    bases, targets = functional.normalize(bases, dim=-1), functional.normalize(targets, dim=-1)
    with torch.autocast(bases.device.type, enabled=False):  # the logarithm below wants all digits
        likeness = (targets @ bases.detach().transpose(1, 2)).relu()
    apart = overlaps == 0
    count = bases.shape[1]
    among = (bases @ bases.transpose(1, 2)).relu().triu(1).sum((1, 2)) * 2 / max(1, count * (count - 1))
    positive = -(overlaps * torch.log(1 - (overlaps - likeness).abs() + TINY)).sum() / overlaps.sum()
    negative = (likeness.square() * apart).sum() / apart.sum().clamp(min=1)
    return {"positive": positive, "negative": negative, "spread": among.mean()}, likeness


def embedder(net: Net, size: int = EMBEDDING) -> nn.Module:
    """Return a module from volumes to embeddings (B, size), its encoder under `encoder`."""
    if isinstance(net, ResEncConfig):
        return ConvolutionalEmbedder(net, size)
    return TokenEmbedder(net, size)


class ConvolutionalEmbedder(nn.Module):
    """The mean of every channel of every stage, projected."""

    def __init__(self, config: ResEncConfig, size: int) -> None:
        super().__init__()
        self.encoder = encoder(config)
        self.projector = Projector(sum(config.features), size)

    def forward(self, image: Tensor) -> Tensor:
        """Return embeddings (B, size)."""
        return self.projector(pooled(self.encoder(image)))  # type: ignore[no-any-return]


class TokenEmbedder(nn.Module):
    """The mean of the tokens, projected."""

    def __init__(self, config: PrimusConfig, size: int) -> None:
        super().__init__()
        self.encoder = PrimusEncoder(config)
        self.projector = Projector(config.width, size)

    def forward(self, image: Tensor) -> Tensor:
        """Return embeddings (B, size)."""
        return self.projector(self.encoder(image).mean(1))  # type: ignore[no-any-return]


def _detached(parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in parts.items()}
