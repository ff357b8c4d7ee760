"""The three tasks of SwinUNETR's pre-training (Tang et al. 2022): restore, tell the rotation, find the other view."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainers.nets.heads import Restorer
from trainers.nets.primus import PrimusConfig, PrimusEncoder
from trainers.nets.resenc import ResEncConfig, encoder
from trainers.pretraining.contrast import nt_xent
from trainers.pretraining.method import PRIMUS, RESENC, Draws, Net, Reading, Shape

if TYPE_CHECKING:
    from collections.abc import Mapping

TURNS = 4
CONTRAST = 512


@dataclass(frozen=True, kw_only=True)
class SwinUNETR:
    """Hyper-parameters. Training and validation make the same views."""

    name: ClassVar[str] = "swin_unetr"
    clip: ClassVar[dict[str, float | None]] = {RESENC: 12.0, PRIMUS: 1.0}
    tiny: ClassVar[dict[str, Any]] = {"patch": (32, 32, 32)}
    with_encoder: ClassVar[dict[str, dict[str, Any]]] = {}
    batch: ClassVar[int] = 8

    patch: Shape = (160, 160, 160)
    sides: tuple[float, float] = (0.05, 0.25)  # of boxes, as shares of the patch
    budget: float = 0.3  # largest share of the voxels in boxes, those in two of them counted twice
    temperature: float = 0.5

    def __post_init__(self) -> None:
        if self.patch[1] != self.patch[2]:
            raise ValueError(f"patch {self.patch}: quarter turns need its last two sides to be alike")

    @property
    def seen(self) -> Shape:
        """Return the patch."""
        return self.patch

    def reading(self) -> Reading:
        """Return patches anywhere, as they are."""
        return Reading(patch=self.patch)

    def views(self, images: Tensor, weight: Tensor, draws: Draws) -> dict[str, Tensor]:  # noqa: ARG002
        """Return two views of each patch, first views first: as seen, clean, and by how many quarters it was turned."""
        turns = torch.from_numpy(draws.rng.integers(0, TURNS, 2 * len(images)))
        clean = torch.stack([volume.rot90(int(k), (2, 3)) for volume, k in zip((*images, *images), turns, strict=True)])
        spoilt = clean.clone()
        for view in spoilt:
            for box in self.boxes(draws):
                noise = draws.uniform(view[box].shape)
                view[box] = (noise - noise.min()) / (noise.max() - noise.min()).clamp(min=1e-8)
        other = spoilt.clone()
        for index, view in enumerate(spoilt):
            chosen = int(draws.rng.integers(0, len(spoilt)))
            if chosen != index:
                for box in self.boxes(draws):
                    view[box] = other[chosen][box]
        return {"image": spoilt, "target": clean, "turns": turns.to(images.device)}

    def boxes(self, draws: Draws) -> list[tuple[slice, ...]]:
        """Draw boxes of volumes (1, Z, Y, X) until the drawn share of voxels is in them."""
        rng, found = draws.rng, []
        left = rng.uniform(0, self.budget) * prod(self.patch)
        while left > 0:
            sides = [max(1, int(rng.uniform(*self.sides) * size)) for size in self.patch]
            starts = [int(rng.integers(0, size - side + 1)) for size, side in zip(self.patch, sides, strict=True)]
            found.append((slice(None), *(slice(a, a + n) for a, n in zip(starts, sides, strict=True))))
            left -= prod(sides)
        return found

    def module(self, net: Net) -> nn.Module:
        """Return an encoder with three heads."""
        return ConvolutionalHeads(net) if isinstance(net, ResEncConfig) else TokenHeads(net)

    def losses(self, module: nn.Module, views: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the sum of the three losses, each of them, and how many rotations are right (chance: 0.25)."""
        restored, turned, embedded = module(views["image"])
        restoration = functional.l1_loss(restored.float(), views["target"])
        rotation = functional.cross_entropy(turned.float(), views["turns"])
        first, second = embedded.chunk(2)
        contrast, _ = nt_xent(first, second, self.temperature)
        return {
            "loss": restoration + rotation + contrast,
            "restoration": restoration.detach(),
            "rotation": rotation.detach(),
            "contrast": contrast.detach(),
            "accuracy": (turned.argmax(1) == views["turns"]).float().mean(),
        }


class ConvolutionalHeads(nn.Module):
    """Heads on the last stage: a restorer, and one linear layer each on its first and on its second voxel."""

    def __init__(self, config: ResEncConfig) -> None:
        super().__init__()
        self.encoder = encoder(config)
        self.rotation_head = nn.Linear(config.features[-1], TURNS)
        self.contrast_head = nn.Linear(config.features[-1], CONTRAST)
        self.restorer = Restorer(config.features[::-1])

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the image restored, logits of turns (B, 4) and embeddings (B, 512)."""
        last = self.encoder(image)[-1]
        first, second = last.flatten(2)[..., :2].unbind(-1)
        return self.restorer(last), self.rotation_head(first), self.contrast_head(second)


class TokenHeads(nn.Module):
    """Heads on the tokens: a restorer, and one linear layer each on the first and on the second token."""

    def __init__(self, config: PrimusConfig) -> None:
        super().__init__()
        self.encoder = PrimusEncoder(config)
        self.rotation_head = nn.Linear(config.width, TURNS)
        self.contrast_head = nn.Linear(config.width, CONTRAST)
        stages = config.token.bit_length() - 1
        self.restorer = Restorer([config.width // 2**stage for stage in range(stages + 1)])

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the image restored, logits of turns (B, 4) and embeddings (B, 512)."""
        tokens = self.encoder(image)
        restored = self.restorer(self.encoder.to_grid(tokens))
        return restored, self.rotation_head(tokens[:, 0]), self.contrast_head(tokens[:, 1])
