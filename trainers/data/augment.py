"""nnU-Net's training augmentation on batches, in torch, on the device that trains.

What happens to a patch is drawn first (`Augmentation.draw`, with NumPy, cheap) and applied later (`augment`, pure): a
loader knows which voxels a patch needs before it reads them, and a draw can be repeated. Transforms, ranges and
probabilities are those of batchgeneratorsv2 0.3.6 as nnU-Net 2.8 composes them. What is faster: only the voxels that
the patch needs are read and moved; without a rotation nothing is interpolated point by point, because blur, lowered
resolution and scaling are one matrix an axis; whole batches at once.

Arrays: images (B, C, Z, Y, X) float32, label maps (B, 1, Z, Y, X) int16 with -1 outside; 2D patches have no Z.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from torch.nn import functional

from trainers.data import operators

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

Range = tuple[float, float]
Parameter = TypeVar("Parameter")
OUTSIDE = -1  # label of voxels beyond the image
TINY = 1e-7
FEW_LABELS = 3  # so many are looked for without counting them first


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Probabilities and ranges; 0 switches a transform off. The defaults are nnU-Net's for an isotropic 3D patch."""

    patch: tuple[int, ...]
    flat: bool = False  # nnU-Net's dummy 2D: slices (axis Z) are turned and scaled in their plane, all alike
    p_rotation: float = 0.2
    rotation: Range = (-math.pi / 6, math.pi / 6)  # rad, one angle an axis
    p_scaling: float = 0.2
    scaling: Range = (0.7, 1.4)  # larger numbers make smaller objects
    scaling_around_one: bool = False  # below or above 1 with the same probability, as nnU-Net's older library drew it
    p_elastic: float = 0.0  # not in nnU-Net; for patches that are not flat
    elastic: Range = (0.5, 2.0)  # standard deviation of the displacement in voxels, one for all axes
    elastic_step: int = 16  # voxels between the points that are displaced
    p_noise: float = 0.1
    noise: Range = (0.0, 0.1)  # standard deviation (nnU-Net calls it a variance), one for all channels
    p_blur: float = 0.2
    p_blur_channel: float = 0.5
    blur: Range = (0.5, 1.0)  # standard deviation in voxels, one a channel and axis
    p_brightness: float = 0.15
    brightness: Range = (0.75, 1.25)  # factor, below or above 1 with the same probability
    p_contrast: float = 0.15
    contrast: Range = (0.75, 1.25)
    p_low_resolution: float = 0.25
    p_low_resolution_channel: float = 0.5
    low_resolution: Range = (0.5, 1.0)
    p_inverted_gamma: float = 0.1
    p_gamma: float = 0.3
    gamma: Range = (0.7, 1.5)
    mirror: tuple[int, ...] = (0, 1, 2)  # spatial axes, each flipped with probability 0.5
    masked: tuple[int, ...] = ()  # channels that are 0 outside of the image, as after normalisation in a mask

    def draw(self, rng: np.random.Generator, channels: int) -> Draw:
        """Draw what happens to one sample."""
        affine, elastic = self._affine(rng), self._elastic(rng)
        return Draw(
            affine=np.eye(len(self.patch)) if affine is None and elastic is not None else affine,
            elastic=elastic,
            noise=float(rng.uniform(*self.noise)) if rng.random() < self.p_noise else 0.0,
            blur=_by_channel(
                rng, self.p_blur, self.p_blur_channel, channels, lambda: tuple(rng.uniform(*self.blur, len(self.patch)))
            ),
            brightness=_by_channel(rng, self.p_brightness, 1, channels, lambda: _around_one(rng, self.brightness)),
            contrast=_by_channel(rng, self.p_contrast, 1, channels, lambda: _around_one(rng, self.contrast)),
            low_resolution=_by_channel(
                rng, self.p_low_resolution, self.p_low_resolution_channel, channels,
                lambda: float(rng.uniform(*self.low_resolution)),
            ),
            inverted_gamma=_by_channel(rng, self.p_inverted_gamma, 1, channels, lambda: _around_one(rng, self.gamma)),
            gamma=_by_channel(rng, self.p_gamma, 1, channels, lambda: _around_one(rng, self.gamma)),
            mirror=tuple(axis for axis in self.mirror if rng.random() < 0.5),  # noqa: PLR2004
        )  # fmt: skip

    def _elastic(self, rng: np.random.Generator) -> NDArray[np.float32] | None:
        """Return displacements (3, Z, Y, X) in voxels of a coarse lattice over the patch, None for none."""
        if not self.p_elastic or rng.random() >= self.p_elastic:
            return None
        points = [max(2, round(size / self.elastic_step) + 1) for size in self.patch]
        sigma = rng.uniform(*self.elastic)
        return (rng.standard_normal((len(self.patch), *points)) * sigma).astype(np.float32)

    def _affine(self, rng: np.random.Generator) -> NDArray[np.float64] | None:
        """Return the matrix from offsets in the patch to offsets in the source, None for a plain crop."""
        turns, scales = rng.random() < self.p_rotation, rng.random() < self.p_scaling
        if not turns and not scales:
            return None
        axes = len(self.patch) - self.flat
        scale = self._scale(rng) if scales else 1.0
        angles = rng.uniform(*self.rotation, axes) if turns else np.zeros(axes)
        matrix = np.eye(len(self.patch))
        matrix[-axes:, -axes:] = _rotation(angles) * scale
        return matrix

    def _scale(self, rng: np.random.Generator) -> float:
        return _around_one(rng, self.scaling) if self.scaling_around_one else float(rng.uniform(*self.scaling))


@dataclass(frozen=True, kw_only=True)
class Draw:
    """What happens to one sample; dictionaries go from a channel to its parameter."""

    affine: NDArray[np.float64] | None
    noise: float
    blur: dict[int, tuple[float, ...]]
    brightness: dict[int, float]
    contrast: dict[int, float]
    low_resolution: dict[int, float]
    inverted_gamma: dict[int, float]
    gamma: dict[int, float]
    mirror: tuple[int, ...]
    elastic: NDArray[np.float32] | None = None  # with an affine

    def bend(self, axes: int) -> NDArray[np.float64]:
        """Return the largest elastic displacement along each of the axes, in voxels."""
        if self.elastic is None:
            return np.zeros(axes)
        return np.asarray(np.abs(self.elastic).reshape(axes, -1).max(axis=1), dtype=np.float64)

    def source_box(self, patch: Sequence[int], source: Sequence[int]) -> list[tuple[int, int]]:
        """Return the part of a source of that shape, around its centre, that the patch depends on."""
        if self.affine is None:
            return [(start, start + n) for start, n in zip(middle(patch, source), patch, strict=True)]
        reach = np.abs(self.affine) @ ((np.asarray(patch) - 1) / 2) + self.bend(len(patch))
        centre = (np.asarray(source) - 1) / 2
        lower = np.maximum(np.floor(centre - reach), 0).astype(int)
        upper = np.minimum(np.ceil(centre + reach) + 1, source).astype(int)
        return [(int(a), int(b)) for a, b in zip(lower, upper, strict=True)]


def _rotation(angles: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the rotation by one angle (2D: the last), or about the axes in their order."""
    if len(angles) == 2:  # noqa: PLR2004 - in a plane
        c, s = math.cos(angles[-1]), math.sin(angles[-1])
        return np.array([[c, -s], [s, c]])
    (cx, cy, cz), (sx, sy, sz) = np.cos(angles), np.sin(angles)
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return np.asarray(about_z @ about_y @ about_x)


def _by_channel(
    rng: np.random.Generator, p: float, p_channel: float, channels: int, draw: Callable[[], Parameter]
) -> dict[int, Parameter]:
    if rng.random() >= p:
        return {}
    return {channel: draw() for channel in range(channels) if p_channel >= 1 or rng.random() < p_channel}


def _around_one(rng: np.random.Generator, bounds: Range) -> float:
    """Draw a factor below or above 1 with the same probability."""
    low, high = bounds
    if low < 1 and rng.random() < 0.5:  # noqa: PLR2004
        return float(rng.uniform(low, 1))
    return float(rng.uniform(max(low, 1), high))


def middle(patch: Sequence[int], source: Sequence[int]) -> tuple[int, ...]:
    """Return the corner of a patch in the middle of a source of that shape."""
    return tuple(size // 2 - n // 2 for n, size in zip(patch, source, strict=True))


@dataclass(frozen=True, kw_only=True)
class Source:
    """The voxels of one sample's source box that lie inside of the image; beyond it images are 0, labels -1."""

    image: Tensor  # (C, Z, Y, X) float32
    labels: Tensor  # (1, Z, Y, X) int16
    corner: tuple[int, ...]  # of these voxels in the source box
    whole: tuple[int, ...]  # shape of the source box

    def to(self, device: torch.device) -> Source:
        """Return the source on a device; the copy may still be under way."""
        image, labels = (volume.to(device, non_blocking=True) for volume in (self.image, self.labels))
        return replace(self, image=image, labels=labels)


def augment(
    sources: Sequence[Source], draws: Sequence[Draw], augmentation: Augmentation, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return images (B, C, Z, Y, X) and label maps (B, 1, Z, Y, X) of the patch's shape.

    Each source holds what `Draw.source_box` names of it; `generator` belongs to the sources' device.
    """
    pairs = list(zip(sources, draws, strict=True))
    corners = [middle(augmentation.patch, s.whole) if draw.affine is None else None for s, draw in pairs]
    images, labels = crops(sources, corners, augmentation.patch)
    for sample, (source, draw) in enumerate(pairs):
        if draw.affine is not None:
            _warp(source, draw, draw.affine, augmentation, images[sample], labels[sample])
    rows = images.view(-1, *images.shape[2:])  # (B * C, Z, Y, X)
    _intensities(rows, draws, images.shape[1], augmentation, generator)
    for sample, draw in enumerate(draws):
        if draw.mirror:
            axes = [axis + 1 for axis in draw.mirror]
            images[sample], labels[sample] = images[sample].flip(axes), labels[sample].flip(axes)
    for channel in augmentation.masked:
        images[:, channel].masked_fill_(labels[:, 0] < 0, 0)
    return images, labels


def crops(
    sources: Sequence[Source], corners: Sequence[Sequence[int] | None], patch: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Return batches of images and labels, cut at a corner of each source box; where it is None, nothing but beyond."""
    first = sources[0]
    images = first.image.new_zeros((len(sources), first.image.shape[0], *patch))
    labels = first.labels.new_full((len(sources), 1, *patch), OUTSIDE)
    for sample, (source, corner) in enumerate(zip(sources, corners, strict=True)):
        if corner is None:
            continue
        there = [
            slice(at - start, at - start + size)
            for at, start, size in zip(source.corner, corner, source.image.shape[1:], strict=True)
        ]
        images[sample][(slice(None), *there)] = source.image
        labels[sample][(slice(None), *there)] = source.labels
    return images, labels


def _warp(
    source: Source, draw: Draw, linear: NDArray[np.float64], augmentation: Augmentation, image: Tensor, labels: Tensor
) -> None:
    """Turn, scale and bend a source into a patch's image and labels, which are 0 and -1 before.

    Image and the indicators of all labels are interpolated in one go; the label with the largest one wins. What is
    missing to 1 belongs to what lies beyond the image.
    """
    if not source.labels.numel():
        return
    known = _labels_in(source.labels)
    if int(source.labels.min()) >= 0 and _stays_inside(source, draw, linear, augmentation):
        known = [label for label in known if label]  # what is missing to 1 is background
    channels = len(source.image)
    stack = source.image.new_empty((channels + len(known), *source.image.shape[1:]))
    stack[:channels] = source.image
    for index, label in enumerate(known):
        torch.eq(source.labels[0], label, out=stack[channels + index])
    found = _sampler(source, draw, linear, augmentation)(stack)
    image.copy_(found[:channels])
    best = 1 - found[channels:].sum(0)
    if 0 not in known:
        labels.zero_()
    for label, score in zip(known, found[channels:], strict=True):
        labels[0].masked_fill_(score >= best, label)
        torch.maximum(best, score, out=best)


def _stays_inside(source: Source, draw: Draw, linear: NDArray[np.float64], augmentation: Augmentation) -> bool:
    """Whether no point of the patch draws on voxels beyond the image."""
    reach = np.abs(linear) @ ((np.asarray(augmentation.patch) - 1) / 2) + draw.bend(len(augmentation.patch))
    centre = (np.asarray(source.whole) - 1) / 2 - np.asarray(source.corner)
    last = np.asarray(source.image.shape[1:]) - 1
    return bool((centre - reach >= 0).all() and (centre + reach <= last).all())


def _labels_in(labels: Tensor) -> list[int]:
    """Return the labels inside of the image; one that is absent may be among them where there are few."""
    highest = int(labels.max())
    if highest <= FEW_LABELS:
        return list(range(highest + 1))
    counts = torch.bincount((labels.reshape(-1) - OUTSIDE).to(torch.int32))
    return [int(label) for label in counts.nonzero()[:, 0] + OUTSIDE if label != OUTSIDE]


def _sampler(
    source: Source, draw: Draw, linear: NDArray[np.float64], augmentation: Augmentation
) -> Callable[[Tensor], Tensor]:
    """Return what interpolates volumes (N, Z, Y, X) of the source at the patch's voxels, 0 beyond the image."""
    offset = (np.asarray(source.whole) - 1) / 2 - np.asarray(
        source.corner
    )  # the source's centre, in voxels of the part
    if draw.elastic is not None or not np.array_equal(linear, np.diag(np.diag(linear))):
        grid = _grid(augmentation, linear, offset, source.image)
        if draw.elastic is not None:
            grid = grid + _displacement(draw.elastic, augmentation.patch, source.image)
        if augmentation.flat:
            return lambda volumes: _sampled_planes(volumes, grid, augmentation.patch[0], source.corner[0])
        return lambda volumes: _sampled(volumes, grid)
    axes = zip(augmentation.patch, source.image.shape[1:], np.diag(linear), offset, strict=True)
    scalings = [operators.scaling(n, size, scale, centre, source.image.device) for n, size, scale, centre in axes]
    return lambda volumes: operators.along_axes(volumes, scalings)


def _grid(augmentation: Augmentation, linear: NDArray[np.float64], offset: NDArray[np.float64], like: Tensor) -> Tensor:
    """Return torch's sampling grid (1, Z, Y, X, 3), or (1, Y, X, 2) for planes, for a part of a source."""
    axes = len(augmentation.patch) - augmentation.flat
    size = np.asarray(like.shape[-axes:], dtype=np.float64)
    shape, matrix, centre = augmentation.patch[-axes:], linear[-axes:, -axes:], offset[-axes:]
    # A place p (voxels) of the part is (2 p + 1) / size - 1 to torch; a voxel of the patch lies at u * (n / 2).
    scale = matrix * np.asarray(shape) / size[:, None]
    shift = (2 * centre + 1) / size - 1
    theta = np.concatenate([scale[::-1, ::-1], shift[::-1, None]], axis=1)
    tensor = torch.tensor(theta[None], dtype=like.dtype, device=like.device)
    return functional.affine_grid(tensor, [1, 1, *shape], align_corners=False)


def _displacement(elastic: NDArray[np.float32], shape: Sequence[int], like: Tensor) -> Tensor:
    """Return how far each point of a grid (1, Z, Y, X, 3) moves, in torch's units of a part of a source."""
    coarse = torch.from_numpy(elastic)[None].to(like.device, like.dtype)
    fine = functional.interpolate(coarse, size=tuple(shape), mode="trilinear", align_corners=True)
    sizes = torch.tensor(like.shape[-len(shape) :], device=like.device, dtype=like.dtype)
    return (fine.movedim(1, -1) * (2 / sizes)).flip(-1)


def _sampled(volumes: Tensor, grid: Tensor) -> Tensor:
    """Sample (N, Z, Y, X) or (N, Y, X) at a grid's points, 0 beyond."""
    return functional.grid_sample(volumes[None], grid, align_corners=False)[0]


def _sampled_planes(volumes: Tensor, grid: Tensor, depth: int, start: int) -> Tensor:
    """Sample each plane of (N, Z, Y, X) alike; they become planes `start` to `start` + Z of `depth`."""
    found = _sampled(volumes.reshape(-1, *volumes.shape[2:]), grid)
    planes = found.new_zeros((len(volumes), depth, *found.shape[1:]))
    planes[:, start : start + volumes.shape[1]] = found.reshape(*volumes.shape[:2], *found.shape[1:])
    return planes


def _intensities(
    rows: Tensor, draws: Sequence[Draw], channels: int, augmentation: Augmentation, generator: torch.Generator
) -> None:
    """Change intensities in place; rows (B * C, Z, Y, X)."""
    noise = {(s, c): draw.noise for s, draw in enumerate(draws) if draw.noise for c in range(channels)}

    def on(chosen: dict[tuple[int, int], float], change: Callable[[Tensor, Tensor], Tensor]) -> None:
        """Change the rows that were chosen, all at once; a parameter (N, 1, 1, 1) goes with each."""
        if not chosen:
            return
        index = torch.tensor([s * channels + c for s, c in chosen], device=rows.device)
        values = torch.tensor(list(chosen.values()), dtype=rows.dtype, device=rows.device)
        part = change(rows.index_select(0, index), values.view(-1, *[1] * (rows.ndim - 1)))
        rows.index_copy_(0, index, part)

    def add_noise(part: Tensor, sigma: Tensor) -> Tensor:
        return part.addcmul_(torch.empty_like(part).normal_(generator=generator), sigma)

    on(noise, add_noise)
    _linear_filters(
        rows, {(s, c): v for s, d in enumerate(draws) for c, v in d.blur.items()}, channels, operators.blurs
    )
    on(_all(draws, "brightness"), lambda part, factor: part.mul_(factor))
    on(_all(draws, "contrast"), _contrast)
    resolutions = {
        key: tuple(1.0 if axis == 0 and augmentation.flat else scale for axis in range(rows.ndim - 1))
        for key, scale in _all(draws, "low_resolution").items()
    }
    _linear_filters(rows, resolutions, channels, operators.resolutions)
    on(_all(draws, "inverted_gamma"), lambda part, gamma: _gamma(part.neg_(), gamma).neg_())
    on(_all(draws, "gamma"), _gamma)


def _all(draws: Sequence[Draw], name: str) -> dict[tuple[int, int], float]:
    return {(s, channel): value for s, draw in enumerate(draws) for channel, value in getattr(draw, name).items()}


def _contrast(part: Tensor, factor: Tensor) -> Tensor:
    """Stretch around the mean, within the range that there was."""
    space = tuple(range(1, part.ndim))
    mean, low, high = part.mean(space, keepdim=True), part.amin(space, keepdim=True), part.amax(space, keepdim=True)
    return part.sub_(mean).mul_(factor).add_(mean).clamp_(low, high)


def _gamma(part: Tensor, gamma: Tensor) -> Tensor:
    """Bend intensities; mean and standard deviation stay."""
    space = tuple(range(1, part.ndim))
    low, high = part.amin(space, keepdim=True), part.amax(space, keepdim=True)
    span = high - low
    mean = part.mean(space, keepdim=True)
    # Sums of squares serve for standard deviations, since only their ratio matters; torch.std is slow on a CPU.
    spread = torch.linalg.vector_norm(part - mean, dim=space, keepdim=True)
    part = part.sub_(low).div_(span.clamp(min=TINY)).pow_(gamma).mul_(span)
    part = part.sub_(part.mean(space, keepdim=True))
    now = torch.linalg.vector_norm(part, dim=space, keepdim=True)
    return part.mul_(spread / now.clamp(min=TINY)).add_(mean)


def _linear_filters(
    rows: Tensor,
    chosen: dict[tuple[int, int], tuple[float, ...]],
    channels: int,
    make: Callable[[int, Sequence[float]], NDArray[np.float32] | None],
) -> None:
    """Filter the chosen rows with one operator an axis and row."""
    if not chosen:
        return
    index = torch.tensor([s * channels + c for s, c in chosen], device=rows.device)
    by_axis = []
    for axis, parameters in enumerate(zip(*chosen.values(), strict=True)):
        found = make(rows.shape[axis + 1], parameters)
        by_axis.append(None if found is None else torch.from_numpy(found).to(rows.device))
    rows.index_copy_(0, index, operators.along_axes(rows.index_select(0, index), by_axis))
