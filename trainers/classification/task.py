"""What the loop trains: whole cases, drawn at random and augmented on the device, through a net with several heads."""

from __future__ import annotations

import math
import sys
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from trainers.classification.nets import network
from trainers.classification.preprocess import load
from trainers.core.distributed import Ranks
from trainers.data.augment import Augmentation, Source, augment

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from torch import Tensor

    from trainers.classification.config import ClassificationSettings
    from trainers.classification.dataset import Case
    from trainers.classification.plan import Plan
    from trainers.data.augment import Draw

UNKNOWN = -100  # target of a label that is not known, which cross_entropy leaves out
KEEP_BYTES = 4 << 30  # of preprocessed cases in memory; beyond that they are read again
TURN = math.radians(15)
FLAT_TURN = math.pi
FLAT = 3  # images of fewer slices than a third of their width are turned in plane only
SIDES = ("left", "right")
PAIRS = ("IS", "AP", "RL")  # which (Z, Y, X) of the canonical orientation run along


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Share of a batch that one process takes."""

    images: Tensor  # (B, C + 1, Z, Y, X); the last channel is the mask
    targets: Tensor  # (B, labels)
    totals: tuple[float, ...]  # by label: sum of the class weights of the whole batch, a process


def with_mask(images: Tensor, masks: Tensor, classes: int) -> Tensor:
    """Append the mask (B, 1, Z, Y, X) to images (B, C, Z, Y, X): its classes 0 to K as multiples of 1 / (K + 1).

    Without regions of interest (K = 0) it is 1/2 inside of the image, as for one class.
    """
    channel = masks.clamp(min=0).to(images.dtype) / (max(1, classes) + 1)
    return torch.cat([images, channel], dim=1)


def mirror_axes(plan: Plan, wanted: Sequence[str] | None) -> tuple[int, ...]:
    """Return the planned axes that may be mirrored; without a wish all, but RL not where a label knows sides."""
    if wanted is None:
        words = " ".join([text for label in plan.labels for text in (label.name, *label.values)]).lower()
        wanted = [pair for pair in PAIRS if pair != "RL" or not any(side in words for side in SIDES)]
    along = [next(pair for pair in PAIRS if letter in pair) for letter in reversed(plan.orientation)]  # Z, Y, X
    return tuple(axis for axis, source in enumerate(plan.transpose) if along[source] in wanted)


def augmentation(plan: Plan, settings: ClassificationSettings) -> Augmentation:
    """Return what happens to training images: nnU-Net v1's default for 3D, elastic in profile auc23 only."""
    size = plan.image_size
    flat = max(size) / size[0] > FLAT
    turn = FLAT_TURN if flat else TURN
    return Augmentation(
        patch=size,
        flat=flat,
        rotation=(-turn, turn),
        scaling=(0.85, 1.25),
        p_elastic=0.2 if settings.profile == "auc23" and not flat else 0.0,
        mirror=mirror_axes(plan, settings.mirror),
        masked=tuple(range(len(plan.channels))) if plan.mask_outside_roi else (),
    )


class ClassificationTask:
    """Joint training of all labels; see `trainers.core.loop.Task`."""

    def __init__(
        self,
        plan: Plan,
        settings: ClassificationSettings,
        store: Path,
        training: Sequence[Case],
        validation: Sequence[Case],
        *,
        device: torch.device,
        ranks: Ranks | None = None,
    ) -> None:
        self.plan, self.settings, self.device, self.ranks = plan, settings, device, ranks or Ranks()
        self.training, self.validation = training, validation
        self.module: nn.Module = network(plan)
        self._memory = Memory(store)
        self._augmentation = augmentation(plan, settings) if settings.augment else None
        self.weights = class_weights(training, plan.classes) if settings.class_weights else None

    def batches(self, epoch: int, start: int) -> Iterator[Batch]:
        """Yield batches of cases drawn with replacement, from iteration `start` on."""
        for iteration in range(start, sys.maxsize):
            rng = np.random.default_rng((self.settings.seed, epoch, iteration))
            chosen = [self.training[i] for i in rng.integers(len(self.training), size=self.plan.batch_size)]
            draws = [
                self._augmentation.draw(rng, len(self.plan.channels)) if self._augmentation else None for _ in chosen
            ]
            seed = int(rng.integers(2**62))
            share = slice(self.ranks.rank, None, self.ranks.size)
            seen = [
                self._seen(case.name, draw, seed + number)
                for number, (case, draw) in list(enumerate(zip(chosen, draws, strict=True)))[share]
            ]
            images, masks = (torch.stack(parts) for parts in zip(*seen, strict=True))
            yield Batch(
                images=with_mask(images, masks, self.plan.roi_classes),
                targets=_targets(chosen[share], self.device),
                totals=self._totals(chosen),
            )

    def _seen(self, name: str, draw: Draw | None, seed: int) -> tuple[Tensor, Tensor]:
        """Return image and mask of a case, augmented by itself: alike however many processes share the batch."""
        source = self._memory.source(name).to(self.device)
        if draw is None or self._augmentation is None:
            return source.image, source.labels
        generator = torch.Generator(self.device).manual_seed(seed)
        images, masks = augment([source], [draw], self._augmentation, generator)
        return images[0], masks[0]

    def losses(self, module: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return the sum of the labels' cross-entropies, and each of them."""
        logits = module(batch.images)
        smoothing = self.settings.label_smoothing or 0.0
        found = {}
        for number, label in enumerate(self.plan.labels):
            weight = None if self.weights is None else self.weights[number].to(self.device)
            total = functional.cross_entropy(
                logits[number].float(), batch.targets[:, number], weight=weight, ignore_index=UNKNOWN,
                reduction="sum", label_smoothing=smoothing,
            )  # fmt: skip
            found[f"loss_{label.name}"] = total / max(batch.totals[number], 1e-8)
        return {"loss": torch.stack(list(found.values())).sum(), **{k: v.detach() for k, v in found.items()}}

    def validate(self, module: nn.Module) -> dict[str, float]:
        """Return loss and accuracy on the validation cases, of the labels that are known."""
        if not self.validation:
            return {}
        losses, right, known = 0.0, 0, 0
        for start in range(0, len(self.validation), self.plan.batch_size):
            cases = self.validation[start : start + self.plan.batch_size]
            sources = [self._memory.source(case.name).to(self.device) for case in cases]
            images = with_mask(
                torch.stack([s.image for s in sources]), torch.stack([s.labels for s in sources]), self.plan.roi_classes
            )
            targets = _targets(cases, self.device)
            for number, logits in enumerate(module(images)):
                there = targets[:, number] != UNKNOWN
                right += int((logits.argmax(1) == targets[:, number])[there].sum())
                known += int(there.sum())
                losses += float(
                    functional.cross_entropy(logits.float(), targets[:, number], ignore_index=UNKNOWN, reduction="sum")
                )
        labels = len(self.plan.labels)
        return {"val_loss": labels * losses / max(1, known), "val_accuracy": right / max(1, known)}

    def _totals(self, cases: Sequence[Case]) -> tuple[float, ...]:
        """Return by label the weights of a whole batch, divided by the processes, whose gradients are averaged."""
        totals = []
        for number in range(len(self.plan.labels)):
            known = [target for case in cases if (target := case.targets[number]) is not None]
            total = len(known) if self.weights is None else float(self.weights[number][known].double().sum())
            totals.append(total / self.ranks.size)
        return tuple(totals)


def class_weights(cases: Sequence[Case], classes: Sequence[int]) -> list[Tensor]:
    """Return by label a weight a class, inverse to its share of the cases; 1 on average over the cases."""
    weights = []
    for number, count in enumerate(classes):
        found = Counter(target for case in cases if (target := case.targets[number]) is not None)
        present = sum(value > 0 for value in found.values())
        total = sum(found.values())
        weights.append(torch.tensor([total / (present * found[c]) if found[c] else 0.0 for c in range(count)]))
    return weights


def _targets(cases: Sequence[Case], device: torch.device) -> Tensor:
    rows = [[UNKNOWN if target is None else target for target in case.targets] for case in cases]
    return torch.tensor(rows, device=device)


class Memory:
    """Preprocessed cases, kept in memory up to `KEEP_BYTES`."""

    def __init__(self, store: Path) -> None:
        self._store = store
        self._kept: dict[str, Source] = {}
        self._bytes = 0

    def source(self, name: str) -> Source:
        """Return a case."""
        if name not in self._kept:
            case = load(self._store, name)
            image, labels = torch.from_numpy(case.images), torch.from_numpy(case.mask[None])
            source = Source(image=image, labels=labels, corner=(0, 0, 0), whole=tuple(image.shape[1:]))
            size = image.nbytes + labels.nbytes
            if self._bytes + size > KEEP_BYTES:
                return source
            self._kept[name] = source
            self._bytes += size
        return self._kept[name]
