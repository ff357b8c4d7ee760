"""What pre-training puts behind an encoder and downstream networks leave out."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Sequence

EMBEDDING = 2048  # features of the projector, as in VoCo


class Projector(nn.Module):
    """Three linear layers, the first two normalised over the features of each sample and rectified."""

    def __init__(self, features: int, hidden: int = EMBEDDING) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(n, hidden) for n in (features, hidden, hidden))

    def forward(self, features: Tensor) -> Tensor:
        """Return embeddings (B, hidden) of features (B, F)."""
        *first, last = self.layers
        for layer in first:
            found = layer(features)
            features = functional.layer_norm(found, found.shape[-1:]).relu()
        return last(features)  # type: ignore[no-any-return]


class Restorer(nn.Module):
    """Convolutions with a doubling of the resolution after each: a coarse feature map to an image of one channel."""

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv3d(before, after, 3, padding=1) for before, after in pairwise(channels))
        self.out = nn.Conv3d(channels[-1], 1, 3, padding=1)

    def forward(self, volume: Tensor) -> Tensor:
        """Return (B, 1, Z, Y, X), 2 ** len(convs) times as fine as the volume (B, C, z, y, x)."""
        for conv in self.convs:
            found = conv(volume)
            # instance_norm refuses a single voxel
            normed = functional.instance_norm(found) if found[0, 0].numel() > 1 else found
            volume = functional.interpolate(functional.leaky_relu(normed, 1e-2), scale_factor=2, mode="trilinear")
        return self.out(volume)  # type: ignore[no-any-return]
