"""Encoders of pre-training as classifiers: their features, pooled over space, to one list of logits a label.

Encoder and stem stand under the keys that pre-training gives them, so that their weights are taken up as they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.nn import functional

from trainers.nets import resenc
from trainers.nets.primus import PrimusEncoder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trainers.nets.primus import PrimusConfig
    from trainers.nets.resenc import ResEncConfig

HEADS_KEY = "heads"


class Heads(nn.Module):
    """A linear layer for each label, on features whose scale does not matter."""

    def __init__(self, features: int, classes: Sequence[int], dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(nn.Linear(features, count) for count in classes)

    def forward(self, features: Tensor) -> list[Tensor]:
        """Map features (B, F) to logits (B, k), one tensor a label."""
        # The norm has no weights and looks at one case alone: a head that is trained by itself is a linear probe.
        found = self.dropout(functional.layer_norm(features, features.shape[-1:]))
        return [layer(found) for layer in self.layers]


class PooledResEnc(nn.Module):
    """The encoder of a ResEnc U-Net; the mean of every channel of every stage goes to the heads.

    Images are padded to a multiple of the encoder's reduction, which its residual blocks want. One axis must be longer
    than that: instance norm wants more than one voxel.
    """

    def __init__(self, config: ResEncConfig, classes: Sequence[int], dropout: float = 0.0) -> None:
        super().__init__()
        self.config = config
        self.encoder = resenc.encoder(config)
        self.heads = Heads(sum(config.features), classes, dropout)

    def forward(self, volume: Tensor) -> list[Tensor]:
        """Map (B, C, Z, Y, X) to logits (B, k), one tensor a label."""
        whole = [-(-size // self.config.reduction) * self.config.reduction for size in volume.shape[2:]]
        found: list[Tensor] = self.heads(resenc.pooled(self.encoder(padded(volume, whole))))
        return found


class PooledPrimus(PrimusEncoder):
    """A Primus encoder; the mean of its tokens goes to the heads. Smaller volumes are padded to the patch."""

    def __init__(self, config: PrimusConfig, classes: Sequence[int], dropout: float = 0.0) -> None:
        super().__init__(config)
        self.heads = Heads(config.width, classes, dropout)

    def forward(self, volume: Tensor) -> list[Tensor]:  # type: ignore[override]
        """Map (B, C, Z, Y, X) to logits (B, k), one tensor a label."""
        tokens = super().forward(padded(volume, self.config.patch))
        found: list[Tensor] = self.heads(tokens.mean(dim=1))
        return found


def padded(volume: Tensor, shape: Sequence[int]) -> Tensor:
    """Put zeros around a volume (B, C, Z, Y, X) until it has the shape (Z, Y, X)."""
    missing = [size - found for size, found in zip(shape, volume.shape[2:], strict=True)]
    return functional.pad(volume, [edge for count in reversed(missing) for edge in (count // 2, count - count // 2)])
