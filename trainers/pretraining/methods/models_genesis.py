"""Models Genesis (Zhou et al. 2021): restore a patch whose texture, intensities and parts were spoilt."""

from __future__ import annotations

from dataclasses import dataclass
from math import comb
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from trainers.nets.primus import Primus
from trainers.nets.resenc import ResEncConfig, unet
from trainers.pretraining.masks import weighted_error
from trainers.pretraining.method import PRIMUS, RESENC, Draws, Net, Reading, Shape

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

MARGIN = 3  # voxels between a painted box and the border
WINDOWS_AT_ONCE = 2000


@dataclass(frozen=True, kw_only=True)
class ModelsGenesis:
    """Hyper-parameters. Training and validation spoil alike."""

    name: ClassVar[str] = "models_genesis"
    clip: ClassVar[dict[str, float | None]] = {RESENC: 12.0, PRIMUS: 1.0}
    tiny: ClassVar[dict[str, Any]] = {"patch": (32, 32, 32), "windows": 80, "curve_samples": 1000}
    with_encoder: ClassVar[dict[str, dict[str, Any]]] = {}
    batch: ClassVar[int] = 8

    patch: Shape = (160, 160, 160)
    p_flip: float = 0.4  # and again, up to three times
    p_shuffle: float = 0.5
    windows: int = 10_000  # whose voxels are shuffled; sides up to a tenth of the patch
    p_curve: float = 0.9
    curve_samples: int = 100_000
    p_paint: float = 0.9
    p_inside: float = 0.2  # boxes of noise; else noise everywhere but in boxes
    p_another_box: float = 0.95
    legacy: bool = False  # as nnssl: curve and noise in [0, 1] meet z-scores, and the last axis is never flipped

    @property
    def seen(self) -> Shape:
        """Return the patch."""
        return self.patch

    def reading(self) -> Reading:
        """Return patches anywhere, as they are."""
        return Reading(patch=self.patch)

    def views(self, images: Tensor, weight: Tensor, draws: Draws) -> dict[str, Tensor]:
        """Return clean patches (flipped) and spoilt ones."""
        images, weight = images.clone(), weight.clone()
        for sample in range(len(images)):
            if axes := self._flips(draws.rng):
                images[sample], weight[sample] = images[sample].flip(axes), weight[sample].flip(axes)
        spoilt = torch.stack([self._spoil(volume[0], draws)[None] for volume in images])
        return {"image": spoilt, "target": images, "weight": weight}

    def module(self, net: Net) -> nn.Module:
        """Return a plain U-Net or Primus."""
        return unet(net.with_outputs(1)) if isinstance(net, ResEncConfig) else Primus(net.with_outputs(1))

    def losses(self, module: nn.Module, views: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the squared error over all voxels."""
        return {"loss": weighted_error(module(views["image"]), views["target"], views["weight"])}

    def _flips(self, rng: np.random.Generator) -> tuple[int, ...]:
        """Draw the axes to flip; an axis that is drawn twice is not."""
        odd: set[int] = set()
        for _ in range(3):
            if rng.random() >= self.p_flip:
                break
            axis = int(rng.integers(0, 3))
            odd ^= {axis if self.legacy else axis + 1}
        return tuple(axis for axis in odd if axis)

    def _spoil(self, volume: Tensor, draws: Draws) -> Tensor:
        """Return a spoilt copy of a volume (Z, Y, X)."""
        rng = draws.rng
        if rng.random() < self.p_shuffle:
            volume = shuffled(volume, self.windows, draws)
        low, high = (0.0, 1.0) if self.legacy else (float(volume.min()), float(volume.max()))
        volume = (volume - low) / max(high - low, 1e-8)
        if rng.random() < self.p_curve:
            volume = bent(volume, *bezier(rng, self.curve_samples))
        if rng.random() < self.p_paint:
            volume = self._painted(volume, draws)
        return volume * max(high - low, 1e-8) + low

    def _painted(self, volume: Tensor, draws: Draws) -> Tensor:
        """Return a volume with noise in boxes, or everywhere else."""
        rng, shape = draws.rng, volume.shape
        noise = draws.uniform(shape)
        inside = rng.random() < self.p_inside
        boxes = []
        for number in range(5):
            if (inside or number) and rng.random() >= self.p_another_box:
                break
            if inside:
                sides = [int(rng.integers(n // 6, n // 3 + 1)) for n in shape]
            else:
                sides = [n - int(rng.integers(3 * n // 7, 4 * n // 7 + 1)) for n in shape]
            boxes.append(tuple(_within(rng, n, side) for n, side in zip(shape, sides, strict=True)))
        painted = volume.clone() if inside else noise.clone()
        for box in boxes:
            painted[box] = (noise if inside else volume)[box]
        return painted


def _within(rng: np.random.Generator, size: int, side: int) -> slice:
    """Draw where a side lies, away from the border where there is room."""
    last = max(MARGIN, size - side - MARGIN)
    start = min(int(rng.integers(MARGIN, last + 1)), size - side)
    return slice(start, start + side)


def bezier(rng: np.random.Generator, samples: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw a curve from (0, 0) to (1, 1), or half of the time one that falls, as rising places and their values."""
    points = np.concatenate([[[0.0, 0.0]], rng.random((2, 2)), [[1.0, 1.0]]])
    t = np.linspace(0, 1, samples)
    weights = np.stack([comb(3, i) * t ** (3 - i) * (1 - t) ** i for i in range(4)])
    places, values = points.T @ weights  # they run from (1, 1) to (0, 0)
    return np.sort(places), values if rng.random() < 0.5 else np.sort(values)  # noqa: PLR2004


def bent(volume: Tensor, places: np.ndarray, values: np.ndarray) -> Tensor:
    """Return the values of a curve at a volume's intensities, interpolated linearly; its ends' beyond them."""
    x, y = (torch.from_numpy(part).to(volume.device, torch.float32) for part in (places, values))
    right = torch.searchsorted(x, volume.contiguous()).clamp(1, len(x) - 1)
    span = (x[right] - x[right - 1]).clamp(min=1e-12)
    share = ((volume - x[right - 1]) / span).clamp(0, 1)
    return y[right - 1] * (1 - share) + y[right] * share


def shuffled(volume: Tensor, windows: int, draws: Draws) -> Tensor:
    """Return a volume (Z, Y, X) with the voxels of small windows shuffled; where they overlap the last one counts.

    All windows are read from the volume as it was, so they are made at once: a random order within each, by sorting.
    """
    shape = np.array(volume.shape)
    sides = draws.rng.integers(1, np.maximum(shape // 10, 1) + 1, (windows, 3))
    corners = draws.rng.integers(0, shape - sides + 1)
    found, owner = volume.flatten().clone(), torch.full((volume.numel(),), -1, device=volume.device)
    for first in range(0, windows, WINDOWS_AT_ONCE):
        part = slice(first, first + WINDOWS_AT_ONCE)
        window, voxels = _voxels(corners[part], sides[part], volume.shape, volume.device)
        by_chance = draws.uniform(voxels.shape).argsort()
        source = voxels[by_chance[window[by_chance].argsort(stable=True)]]  # the windows' voxels, each in random order
        owner[voxels] = -1
        owner.scatter_reduce_(0, voxels, window, "amax")
        last = owner[voxels] == window
        found[voxels[last]] = volume.flatten()[source[last]]
    return found.view(volume.shape)


def _voxels(corners: np.ndarray, sides: np.ndarray, shape: Any, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return for every voxel of every window the window's number and the voxel's, window after window."""
    corner, side = (torch.from_numpy(part).to(device) for part in (corners, sides))
    counts = side.prod(1)
    window = torch.repeat_interleave(torch.arange(len(counts), device=device), counts)
    rank = torch.arange(len(window), device=device) - (counts.cumsum(0) - counts)[window]
    side, corner = side[window], corner[window]
    z = rank // (side[:, 1] * side[:, 2]) + corner[:, 0]
    y = rank // side[:, 2] % side[:, 1] + corner[:, 1]
    x = rank % side[:, 2] + corner[:, 2]
    return window, (z * shape[1] + y) * shape[2] + x
