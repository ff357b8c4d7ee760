"""A trained classifier: its plan, the weights of its folds, and the probabilities that it gives for a case."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from trainers.classification.nets import network
from trainers.classification.plan import Plan, read_plan
from trainers.classification.preprocess import load_case
from trainers.classification.task import with_mask
from trainers.core import checkpoints
from trainers.core.errors import TrainingError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import nn

    from trainers.classification.preprocess import PreparedCase

TRAINER, CONFIGURATION = "ClassificationTrainer", "3d"
Probabilities = tuple[tuple[float, ...], ...]  # by label, by class; each label's sum to 1


def save_final(path: Path, module: nn.Module) -> None:
    """Write the checkpoint that a release ships: the weights; the plan says what the net is made of."""
    weights = module.state_dict()
    copies = {tensor.data_ptr(): tensor.detach().cpu() for tensor in weights.values()}  # a ResEnc names some twice
    state = {
        "network_weights": {name: copies[tensor.data_ptr()] for name, tensor in weights.items()},
        "trainer_name": TRAINER,
        "init_args": {"configuration": CONFIGURATION},
        "inference_allowed_mirroring_axes": None,
    }
    checkpoints.save_state(path, state)


def load_net(path: Path, plan: Plan, device: torch.device) -> nn.Module:
    """Read a final checkpoint, executing nothing, and return its net in evaluation mode."""
    if not path.is_file():
        raise TrainingError(f"{path}: no such file", hint="train to the end: mreg train")
    state = checkpoints.load_state(path, torch.device("cpu"))
    try:
        net = network(plan)
        net.load_state_dict(state["network_weights"])
    except (KeyError, TypeError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise TrainingError(f"{path}: not the weights of {path.parent.parent / 'plans.json'}: {reason}") from error
    return net.float().to(device).eval()


def folds_of(folder: Path) -> list[str]:
    """Return the folds with a final checkpoint; `all` only where it stands alone."""
    found = sorted(path.parent.name.removeprefix("fold_") for path in folder.glob(f"fold_*/{checkpoints.FINAL}"))
    return [fold for fold in found if fold.isdigit()] or found


@torch.no_grad()
def probabilities(net: nn.Module, case: PreparedCase, plan: Plan, device: torch.device) -> Probabilities:
    """Return what one net says of a case; alone in its batch, so that it does not depend on other cases."""
    images = torch.from_numpy(np.ascontiguousarray(case.images))[None].to(device)
    masks = torch.from_numpy(np.ascontiguousarray(case.mask))[None, None].to(device)
    logits = net(with_mask(images, masks, plan.roi_classes))
    return tuple(tuple(float(p) for p in found[0].double().softmax(0).cpu()) for found in logits)


@dataclass(frozen=True, kw_only=True)
class Classifier:
    """An ensemble of folds: the mean of their probabilities."""

    plan: Plan
    nets: dict[str, nn.Module]  # fold → net
    device: torch.device

    @classmethod
    def load(cls, folder: Path, folds: Sequence[str] = (), device: torch.device | None = None) -> Classifier:
        """Load the folds of a run or of a released model, all of them where none is named."""
        plan, place = read_plan(folder), device or torch.device("cpu")
        chosen = list(folds) or folds_of(folder)
        if not chosen:
            raise TrainingError(f"{folder}: no fold has a {checkpoints.FINAL}", hint="train to the end: mreg train")
        nets = {fold: load_net(folder / f"fold_{fold}" / checkpoints.FINAL, plan, place) for fold in chosen}
        return cls(plan=plan, nets=nets, device=place)

    def read(self, images: Sequence[Path], mask: Path | None) -> PreparedCase:
        """Read the files of a case; raise `TrainingError` where they are not what the model was trained on."""
        first = images[0] if images else "no image"
        if len(images) != len(self.plan.channels):
            raise TrainingError(
                f"{first}: {len(images)} images for a case, and the model takes {len(self.plan.channels)}: "
                f"{', '.join(self.plan.channels)}",
                hint="give one image a channel, in this order",
            )
        if self.plan.has_roi and mask is None:
            raise TrainingError(
                f"{first}: no mask, and the model was trained with a region of interest",
                hint="give the mask of the region: --mask, or roi_segmentation_file",
            )
        if mask is not None and not self.plan.has_roi:
            raise TrainingError(
                f"{mask}: a mask, and the model was trained without regions of interest", hint="leave the mask out"
            )
        return load_case(images, mask, self.plan)

    def __call__(self, case: PreparedCase, folds: Sequence[str] = ()) -> Probabilities:
        """Return the mean of the probabilities of these folds, by default of all."""
        chosen = list(folds or self.nets)
        mean = probabilities(self.nets[chosen[0]], case, self.plan, self.device)
        for count, fold in enumerate(chosen[1:], start=2):
            found = probabilities(self.nets[fold], case, self.plan, self.device)
            # A running mean: folds that agree to the last bit do so together.
            mean = tuple(
                tuple(old + (new - old) / count for old, new in zip(*pair, strict=True))
                for pair in zip(mean, found, strict=True)
            )
        return mean
