"""What the recipe brings to the loop: patches around lesions and cords, two losses, whole cases to validate on."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from torch.nn import functional

from trainers.core.distributed import Ranks
from trainers.data.augment import Augmentation
from trainers.data.loader import PatchLoader
from trainers.data.patches import CaseStore, Sampling
from trainers.lesion.evaluate import DEFAULT
from trainers.lesion.network import AXES
from trainers.lesion.sliding import predict_volume

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import torch
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from trainers.lesion.config import LesionSettings

ALONE = Ranks()


@dataclass(frozen=True, eq=False)
class Held:
    """A validation case on the net's grid."""

    image: NDArray[np.float32]  # standardised, (x, y, z)
    lesion: NDArray[np.bool_]
    voxel_ml: float


class LesionTask:
    """See `trainers.core.loop.Task`."""

    def __init__(
        self,
        module: nn.Module,
        settings: LesionSettings,
        folder: Path,
        training: Sequence[str],
        held: Sequence[Held],
        *,
        device: torch.device,
        ranks: Ranks = ALONE,
    ) -> None:
        self.module, self.settings, self.held, self.device = module, settings, held, device
        self._epoch = 0
        self._loader = PatchLoader(
            CaseStore(folder, training), sampling(settings), augmentation(settings), _targets,
            device=device, seed=(settings.seed, ranks.rank), threads=settings.workers,
        )  # fmt: skip

    def batches(self, epoch: int, start: int) -> Iterator[Any]:
        """Yield {"data": (B, 1, Z, Y, X), "target": the same shape} from iteration `start` on."""
        self._epoch = epoch
        self._loader.start(epoch, start)
        return iter(self._loader)

    def losses(self, module: nn.Module, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Return the loss and its parts."""
        logits, target = module(batch["data"]).float(), batch["target"]
        dice = dice_loss(logits.sigmoid(), target)
        if self.settings.loss == "dice":
            return {"loss": dice}
        entropy = functional.binary_cross_entropy_with_logits(logits, target)
        return {"loss": dice + entropy, "dice_loss": dice.detach(), "ce_loss": entropy.detach()}

    def validate(self, module: nn.Module) -> dict[str, float]:
        """Return Dice over held cases with lesions, and false positives (ml) over those without, at 0.5."""
        last = self._epoch + 1 == self.settings.epochs
        if not self.held or (not last and (self._epoch + 1) % self.settings.validate_every):
            return {}
        overlaps, alarms = [], []
        for case in self.held:
            found = predict_volume(module, case.image, self.settings, self.device) >= DEFAULT
            if case.lesion.any():
                overlaps.append(2 * (found & case.lesion).sum() / (found.sum() + case.lesion.sum()))
            else:
                alarms.append(found.sum() * case.voxel_ml)
        measures = {"dice": overlaps, "false_positive_ml": alarms}
        return {name: float(np.mean(values)) for name, values in measures.items() if values}


def dice_loss(probability: Tensor, target: Tensor) -> Tensor:
    """Return the negative Dice of all voxels of a batch together, with 1 added above and below; -1 where all is empty.

    As in the first lesion models (Gros et al., NeuroImage 2019).
    """
    both = (probability * target).sum()
    return -(2 * both + 1) / (probability.sum() + target.sum() + 1)


def sampling(settings: LesionSettings) -> Sampling:
    """Return where patches are drawn: around a lesion voxel by chance, else anywhere along the cord."""
    geometry = settings.geometry
    z, y, x = (size + 2 * geometry.margin for size in settings.patch)
    off = min(settings.shift, geometry.margin)
    shift = (None, off, off) if geometry.crop == "window" else ()
    return Sampling(
        batch=settings.batch_size, patch=settings.patch, source=(z, y, x), foreground=settings.lesion_share,
        by_chance=True, shift=shift,
    )  # fmt: skip


def augmentation(settings: LesionSettings) -> Augmentation:
    """Return what happens to patches; intensities change as in nnU-Net, but for its lowered resolution."""
    angle = math.radians(settings.rotation)
    return Augmentation(
        patch=settings.patch,
        p_rotation=0.5 if angle else 0.0, rotation=(-angle, angle),
        p_elastic=0.3 if settings.elastic else 0.0, elastic=(0.0, settings.elastic),
        mirror=tuple(sorted(AXES[name] for name in settings.mirror)),
    )  # fmt: skip


def _targets(labels: Tensor) -> Tensor:
    """Return 1 for lesion; what lies beyond the ends of the cord is none."""
    return (labels == 1).float()
