"""VolumeFusion (Wang et al. 2023): tell for each voxel in which shares two images were mixed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch.nn import functional

from trainers.data.augment import Augmentation
from trainers.nets.primus import Primus
from trainers.nets.resenc import ResEncConfig, unet
from trainers.pretraining.method import PRIMUS, RESENC, Draws, Net, Reading, Shape

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

SMOOTH = 1e-5


@dataclass(frozen=True, kw_only=True)
class VolumeFusion:
    """Hyper-parameters; two centre crops make one mixed image."""

    name: ClassVar[str] = "volume_fusion"
    clip: ClassVar[dict[str, float | None]] = {RESENC: 12.0, PRIMUS: 1.0}
    tiny: ClassVar[dict[str, Any]] = {"patch": (32, 32, 32), "smallest_side": 4}
    with_encoder: ClassVar[dict[str, dict[str, Any]]] = {}
    batch: ClassVar[int] = 8

    patch: Shape = (160, 160, 160)
    classes: int = 5  # equal steps of the first image's share, from 0 to 1
    boxes: tuple[int, int] = (10, 39)  # number of them, at least and at most
    smallest_side: int = 8  # voxels
    largest_side: float = 0.625  # of the patch

    @property
    def seen(self) -> Shape:
        """Return the patch."""
        return self.patch

    def reading(self) -> Reading:
        """Return two centre crops a sample, with intensities changed and mirrored."""
        variation = Augmentation(patch=self.patch, p_rotation=0, p_scaling=0)
        return Reading(patch=self.patch, augmentation=variation, each=2, centred=True)

    def views(self, images: Tensor, weight: Tensor, draws: Draws) -> dict[str, Tensor]:  # noqa: ARG002
        """Return mixed images (B, 1, Z, Y, X) and the class of each voxel (B, Z, Y, X)."""
        first, second = images.chunk(2)
        # An image mixed with itself shows no shares at all; in small collections the same one is often drawn twice.
        second = torch.stack([b.flip(1) if torch.equal(a, b) else b for a, b in zip(first, second, strict=True)])
        labels = torch.stack([self.classes_of_boxes(draws) for _ in first]).to(images.device)
        share = (labels / (self.classes - 1)).to(images.dtype)[:, None]
        return {"image": share * first + (1 - share) * second, "labels": labels}

    def classes_of_boxes(self, draws: Draws) -> Tensor:
        """Draw a map of classes (Z, Y, X): boxes over a background of class 0, later ones over earlier ones."""
        rng = draws.rng
        labels = torch.zeros(self.patch, dtype=torch.int64)
        for _ in range(int(rng.integers(self.boxes[0], self.boxes[1] + 1))):
            box = []
            for size in self.patch:
                side = int(rng.integers(self.smallest_side, int(self.largest_side * size) + 1))
                start = int(rng.integers(0, size - side + 1))
                box.append(slice(start, start + side))
            labels[tuple(box)] = int(rng.integers(0, self.classes))
        return labels

    def module(self, net: Net) -> nn.Module:
        """Return a plain U-Net or Primus with an output a class."""
        net = net.with_outputs(self.classes)
        return unet(net) if isinstance(net, ResEncConfig) else Primus(net)

    def losses(self, module: nn.Module, views: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return cross entropy minus soft Dice; and the share of a class's voxels that are right (chance: 1 / classes).

        Most voxels are background, which a net that is not sure names everywhere. So a voxel counts as the class that
        is likelier there than on average, and shares are averaged over classes.
        """
        logits, labels = module(views["image"]).float(), views["labels"]
        entropy, dice = functional.cross_entropy(logits, labels), soft_dice(logits, labels)
        likely = logits.detach().softmax(1)
        named = (likely / likely.mean((0, 2, 3, 4), keepdim=True)).argmax(1)
        hits = labels.where(named == labels, -1)
        found, there = (torch.stack([(m == c).sum() for c in range(self.classes)]) for m in (hits, labels))
        accuracy = (found / there.clamp(min=1)).sum() / (there > 0).sum()
        return {"loss": entropy - dice, "dice": dice.detach(), "accuracy": accuracy}


def soft_dice(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean over samples and classes of the Dice overlap of probabilities (B, C, ...) and labels (B, ...)."""
    shares = logits.softmax(1)
    truth = functional.one_hot(labels, logits.shape[1]).movedim(-1, 1)
    space = tuple(range(2, logits.ndim))
    both = (shares * truth).sum(space)
    return ((2 * both + SMOOTH) / (shares.sum(space) + truth.sum(space) + SMOOTH)).mean()
