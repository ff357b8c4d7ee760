"""What a method of pre-training is: what it reads, the views that it makes of it, a module and named losses."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
import torch

from trainers.nets.primus import PrimusConfig
from trainers.nets.resenc import ResEncConfig

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor, nn

    from trainers.data.augment import Augmentation

Shape = tuple[int, int, int]
Net = ResEncConfig | PrimusConfig
RESENC, PRIMUS = "resenc", "primus"
ZOOM = 0.85  # the box that is read for a patch holds what this scale and the widest rotation bring into it


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What is cut out of images for a batch."""

    patch: Shape
    augmentation: Augmentation | None = None  # what happens to a patch as it is read, in training
    each: int = 1  # images for each sample of the batch
    centred: bool = False  # the middle of an image instead of any place

    def source(self, *, train: bool) -> Shape:
        """Return the box that is cut: larger than the patch where this will be turned."""
        turned = self.augmentation if train and self.augmentation and self.augmentation.p_rotation else None
        return context(self.patch, turned.rotation[1]) if turned else self.patch


def context(patch: Sequence[int], angle: float, zoom: float = ZOOM) -> Shape:
    """Return the box that a patch needs when it is turned about one axis by `angle` (rad) and shrunk by `zoom`.

    >>> context((160, 160, 160), math.pi / 6)
    (257, 257, 257)
    """
    c, s = math.cos(angle), math.sin(angle)
    widest = (max(n * c + other * s for j, other in enumerate(patch) if j != i) for i, n in enumerate(patch))
    z, y, x = (int(max(n, found) / zoom) for n, found in zip(patch, widest, strict=True))
    return z, y, x


@dataclass(frozen=True)
class Draws:
    """Random numbers of one batch: small ones from NumPy, fields of voxels from torch on the batch's device."""

    rng: np.random.Generator
    generator: torch.Generator
    train: bool

    @classmethod
    def of(cls, seed: Sequence[int], device: torch.device, *, train: bool) -> Draws:
        """Return the draws of a seed."""
        rng = np.random.default_rng(tuple(seed))
        return cls(rng, torch.Generator(device).manual_seed(int(rng.integers(2**62))), train)

    def uniform(self, shape: Sequence[int]) -> Tensor:
        """Return numbers of [0, 1) on the batch's device."""
        return torch.rand(tuple(shape), generator=self.generator, device=self.generator.device)


class Method(Protocol):
    """A method of pre-training; its fields are its hyper-parameters, the paper's by default."""

    name: ClassVar[str]
    clip: ClassVar[dict[str, float | None]]  # longest gradient with each encoder that the method is made for
    tiny: ClassVar[dict[str, Any]]  # fields for a processor and a few seconds
    with_encoder: ClassVar[dict[str, dict[str, Any]]]  # fields that are other ones with an encoder
    batch: ClassVar[int]  # samples of the paper's batch

    @property
    def seen(self) -> Shape:
        """Return the shape of the volumes that the network sees."""

    def reading(self) -> Reading:
        """Return what must be read."""

    def views(self, images: Tensor, weight: Tensor, draws: Draws) -> dict[str, Tensor]:
        """Return what the loss needs, made of patches (B * each, 1, Z, Y, X).

        `weight` (B * each, 1, Z, Y, X) is 0 for voxels that the loss leaves out, else 1.
        """

    def module(self, net: Net) -> nn.Module:
        """Return the encoder of that size with what the method puts behind it."""

    def losses(self, module: nn.Module, views: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return named losses and measures, scalars; the one called "loss" is minimised."""


def fitted(net: Net, method: Method) -> Net:
    """Return the encoder's size for the volumes that a method shows it; raise `ValueError` where it does not fit."""
    if isinstance(net, PrimusConfig):
        if (block := getattr(method, "block", None)) not in (None, net.token):
            raise ValueError(f"block {block} is not the token of the encoder, {net.token} voxels")
        return replace(net, patch=method.seen)
    if any(size % net.reduction for size in method.seen):
        raise ValueError(f"patch {method.seen} is not divisible by {net.reduction}, as ResEnc's strides need it")
    return net
