"""nnU-Net trainings that start from a pre-trained encoder: its network in the plans, its weights, and a gentle start.

The preprocessed data stay those of the dataset's own plan. Rates and what is trained when are those of the OpenMind
benchmark (trainers/pretraining/finetuning.py); loss, sampling and augmentation stay nnU-Net's.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from trainers.core.errors import TrainingError
from trainers.core.files import write_json
from trainers.nets.resenc import TYPES, ResEncConfig
from trainers.pretraining.checkpoint import encoder_of, load
from trainers.pretraining.finetuning import Schedule, freeze, start_from

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from trainers.core.progress import Progress
    from trainers.pretraining.checkpoint import Pretrained
    from trainers.segmentation.config import SegmentationSettings

REPORT = "pretrained.json"
RATE, SCRATCH_RATE = 1e-3, 1e-2
NETWORK = "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet"


@dataclass(frozen=True, kw_only=True)
class Beginning:
    """How a fold starts."""

    pretrained: Pretrained
    settings: SegmentationSettings

    @classmethod
    def of(cls, checkpoint: Path, settings: SegmentationSettings) -> Beginning:
        """Read a checkpoint; raise `TrainingError` where nnU-Net cannot train its network."""
        pretrained = load(checkpoint)
        if not isinstance(encoder_of(pretrained.plan), ResEncConfig):
            raise TrainingError(
                f"{checkpoint}: recipe nnunet fine-tunes ResEnc encoders, this is a Primus",
                hint='pre-train with encoder = "resenc"',
            )
        return cls(pretrained=pretrained, settings=settings)

    def plans(self, plans: dict[str, Any]) -> dict[str, Any]:
        """Return plans with the encoder's network and a patch that it can take."""
        net = encoder_of(self.pretrained.plan)
        if not isinstance(net, ResEncConfig):
            raise TypeError("checked above")
        patch = list(self.settings.patch_size or self.pretrained.plan["recommended_downstream_patchsize"])
        if len(patch) != 3 or any(size % net.reduction for size in patch):  # noqa: PLR2004 - z, y, x
            raise TrainingError(f"patch_size {patch}: the encoder needs three sides divisible by {net.reduction}")
        name = self.settings.configuration
        architecture = {
            "network_class_name": NETWORK, "arch_kwargs": net.keywords(), "_kw_requires_import": list(TYPES),
        }  # fmt: skip
        own = {**plans["configurations"][name], "patch_size": patch, "architecture": architecture}
        return {**plans, "configurations": {**plans["configurations"], name: own}}

    def start(self, network: nn.Module, folder: Path, progress: Progress) -> None:
        """Give an untrained network the encoder's weights, and say and write what was taken."""
        if self.settings.from_scratch:
            progress.say("from scratch: the pre-trained weights are not taken")
            return
        report = start_from(network, self.pretrained)
        progress.say(f"pre-trained: {report.summary}")
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / REPORT, asdict(report))

    def rates(self, optimiser: Any, network: nn.Module, epochs: int) -> Rates:
        """Return what sets rates and frozen weights, in the place of nnU-Net's scheduler."""
        mode = "default" if self.settings.from_scratch else self.settings.fine_tuning
        lr = self.settings.initial_lr or (SCRATCH_RATE if self.settings.from_scratch else RATE)
        return Rates(optimiser, network, Schedule(mode=mode, lr=lr, epochs=epochs), self.pretrained.plan)


class Rates:
    """A scheduler as nnU-Net calls it, once an epoch with its number."""

    def __init__(self, optimiser: Any, network: nn.Module, schedule: Schedule, plan: dict[str, Any]) -> None:
        self.optimiser, self.network, self.schedule, self.plan = optimiser, network, schedule, plan
        self._learns: bool | None = None

    def step(self, epoch: int) -> None:
        """Set the rate of an epoch, and whether the encoder learns."""
        learns = self.schedule.encoder_learns(epoch)
        if learns != self._learns:
            freeze(self.network, self.plan, learns=learns)
            self._learns = learns
        for group in self.optimiser.param_groups:
            group["lr"] = self.schedule.rate(epoch)


def plain(network: Any) -> nn.Module:
    """Return a network without what data-parallel training and torch.compile put around it."""
    for wrapper in ("module", "_orig_mod"):
        network = getattr(network, wrapper, network)
    found: nn.Module = network
    return found
