"""nnU-Net trainings that start from a pre-trained encoder: its network in the plans, its weights, and a gentle start.

The preprocessed data stay those of the dataset's own plan. Rates and what is trained when are those of the OpenMind
benchmark (trainers/pretraining/finetuning.py); loss, sampling and augmentation stay nnU-Net's.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from trainers.core.errors import TrainingError
from trainers.core.files import write_json
from trainers.nets.primus import PrimusConfig
from trainers.nets.resenc import TYPES, ResEncConfig
from trainers.pretraining.checkpoint import encoder_of, load
from trainers.pretraining.finetuning import Rates, Schedule, start_from
from trainers.segmentation import primus
from trainers.segmentation.config import STOCK

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from trainers.core.progress import Progress
    from trainers.pretraining.checkpoint import Pretrained
    from trainers.pretraining.finetuning import Mode
    from trainers.segmentation.config import SegmentationSettings

REPORT = "pretrained.json"
RATES = {ResEncConfig: (1e-3, 1e-2), PrimusConfig: (1e-4, 3e-4)}  # fine-tuned, from scratch
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
        wanted = trainer_of(pretrained)
        if isinstance(encoder_of(pretrained.plan), PrimusConfig) and settings.trainer not in (STOCK, wanted):
            raise TrainingError(
                f"trainer {settings.trainer!r} does not train the Primus of {checkpoint}", hint=f'trainer = "{wanted}"'
            )
        return cls(pretrained=pretrained, settings=settings)

    @property
    def trainer(self) -> str:
        """Return the name of the trainer class: the user's for a ResEnc, that of its size for a Primus."""
        return trainer_of(self.pretrained) or self.settings.trainer

    def plans(self, plans: dict[str, Any]) -> dict[str, Any]:
        """Return plans with the encoder's network and a patch that it can take."""
        net = encoder_of(self.pretrained.plan)
        patch = list(self.settings.patch_size or self.pretrained.plan["recommended_downstream_patchsize"])
        smallest = net.reduction if isinstance(net, ResEncConfig) else net.token
        if len(patch) != 3 or any(size % smallest for size in patch):  # noqa: PLR2004 - z, y, x
            raise TrainingError(f"patch_size {patch}: the encoder needs three sides divisible by {smallest}")
        name = self.settings.configuration
        if isinstance(net, ResEncConfig):
            architecture = {
                "network_class_name": NETWORK, "arch_kwargs": net.keywords(), "_kw_requires_import": list(TYPES),
            }  # fmt: skip
        else:
            architecture = primus.architecture(replace(net, drop_path=0.0), patch)
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
        net = encoder_of(self.pretrained.plan)
        tuned, scratch = RATES[type(net)]
        lr = self.settings.initial_lr or (scratch if self.settings.from_scratch else tuned)
        # From scratch a ResEnc is trained as nnU-Net does, and a Transformer never without a warm-up.
        alone: Mode = "default" if isinstance(net, ResEncConfig) else "warmup"
        mode = alone if self.settings.from_scratch else self.settings.fine_tuning
        return Rates(optimiser, network, Schedule(mode=mode, lr=lr, epochs=epochs), self.pretrained.plan)


def trainer_of(pretrained: Pretrained) -> str | None:
    """Return the name of the trainer that a Primus has to itself, None for a ResEnc."""
    net = encoder_of(pretrained.plan)
    return primus.trainer_of(net) if isinstance(net, PrimusConfig) else None


def plain(network: Any) -> nn.Module:
    """Return a network without what data-parallel training and torch.compile put around it."""
    for wrapper in ("module", "_orig_mod"):
        network = getattr(network, wrapper, network)
    found: nn.Module = network
    return found
