"""Classifiers that start from a pre-trained encoder: its size in the plan, its weights, and what of it may change.

Mode full lets everything learn, with a tenth of the usual rate; frozen holds the encoder's blocks, so that its stem,
which sees the mask as well, and the heads learn; linear is a linear probe, where the heads alone learn.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

import torch

from trainers.classification.nets import planned_net
from trainers.core.files import write_json
from trainers.nets.pooled import HEADS_KEY, PooledPrimus
from trainers.nets.primus import Block
from trainers.pretraining.checkpoint import encoder_of, load
from trainers.pretraining.finetuning import freeze, start_from

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from trainers.classification.config import ClassificationSettings
    from trainers.classification.plan import PlannedNet
    from trainers.core.progress import Progress
    from trainers.pretraining.checkpoint import Pretrained
    from trainers.pretraining.finetuning import Report

REPORT = "pretrained.json"


@dataclass(frozen=True, kw_only=True)
class Beginning:
    """How a fold starts."""

    pretrained: Pretrained
    settings: ClassificationSettings

    @classmethod
    def of(cls, checkpoint: Path, settings: ClassificationSettings) -> Beginning:
        """Read a checkpoint of recipe pretrain or of nnssl; raise `TrainingError` for any other file."""
        return cls(pretrained=load(checkpoint), settings=settings)

    @property
    def net(self) -> PlannedNet:
        """Return the net with the checkpoint's encoder."""
        return planned_net(self.settings, encoder_of(self.pretrained.plan))

    def start(self, network: nn.Module, folder: Path, progress: Progress) -> None:
        """Give an untrained network the encoder's weights, say and write what was taken, and hold what shall stay."""
        if self.settings.from_scratch:
            progress.say("from scratch: the pre-trained weights are not taken, and all weights learn")
            return
        report = _without_mask(network, start_from(network, self.pretrained))
        if self.settings.fine_tuning != "full":
            freeze(network, self.pretrained.plan, learns=False)
            if isinstance(network, PooledPrimus):
                for block in network.eva.modules():
                    if isinstance(block, Block):
                        block.drop = 0.0  # what does not learn is not disturbed either
        if self.settings.fine_tuning == "linear":
            for key, parameter in network.named_parameters():
                parameter.requires_grad_(key.startswith(f"{HEADS_KEY}."))
        learning = sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
        progress.say(f"pre-trained: {report.summary}; {learning:,} weights learn")
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / REPORT, {**asdict(report), "fine_tuning": self.settings.fine_tuning, "learning": learning})


@torch.no_grad()
def _without_mask(network: nn.Module, report: Report) -> Report:
    """Let the first layer see the images as it did in pre-training, and nothing of the mask until it learns to."""
    changed, seen = dict(report.changed), set()
    for name, weight in network.state_dict().items():  # which share the network's memory, some of them twice
        images = weight.shape[1] - 1 if weight.ndim > 1 else 0
        if not report.changed.get(name, "").startswith("repeated"):
            continue
        if weight.data_ptr() not in seen:
            weight[:, :images] *= (images + 1) / images  # shares of all channels, and the mask has none
            weight[:, images:] = 0
            seen.add(weight.data_ptr())
        changed[name] = f"repeated for {images} channels, 0 for the mask"
    return replace(report, changed=changed)
