"""S3D (Wald et al. 2024): SparK's masked autoencoder for a sparse convolutional encoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from trainers.nets.resenc import ResEncConfig
from trainers.nets.sparse import SparseUNet
from trainers.pretraining.masks import block_grid, hidden_error, random_blocks
from trainers.pretraining.method import RESENC, Draws, Net, Reading, Shape
from trainers.pretraining.methods.mae import turning

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class S3D:
    """Hyper-parameters; the encoder sees open blocks only, at each of its resolutions."""

    name: ClassVar[str] = "s3d"
    clip: ClassVar[dict[str, float | None]] = {RESENC: 12.0}
    tiny: ClassVar[dict[str, Any]] = {"patch": (32, 32, 32), "block": 8}
    with_encoder: ClassVar[dict[str, dict[str, Any]]] = {}
    batch: ClassVar[int] = 8

    patch: Shape = (160, 160, 160)
    mask_ratio: tuple[float, float] = (0.6, 0.9)  # one for all of a batch is drawn between these
    block: int = 16
    p_rotation: float = 0.2
    rotation_degrees: float = 30.0
    p_scaling: float = 0.2
    scaling: tuple[float, float] = (0.7, 1.4)

    @property
    def seen(self) -> Shape:
        """Return the patch."""
        return self.patch

    def reading(self) -> Reading:
        """Return what MAE reads."""
        return Reading(patch=self.patch, augmentation=turning(self))

    def views(self, images: Tensor, weight: Tensor, draws: Draws) -> dict[str, Tensor]:
        """Return the patches and which of their blocks are open, the same number in each."""
        ratio = float(draws.rng.uniform(*self.mask_ratio))
        blocks = random_blocks(len(images), block_grid(self.patch, self.block), ratio, draws)
        return {"image": images, "weight": weight, "blocks": blocks}

    def module(self, net: Net) -> nn.Module:
        """Return a U-Net with a sparse encoder; a Transformer is sparse by itself, which is MAE."""
        if not isinstance(net, ResEncConfig):
            raise TypeError("s3d needs a convolutional encoder")
        return SparseUNet(net.with_outputs(1))

    def losses(self, module: nn.Module, views: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the squared error of what was hidden."""
        found = module(views["image"], views["blocks"])
        return {"loss": hidden_error(found, views["image"], views["blocks"], views["weight"])}
