"""nnU-Net's loaders replaced by ours: the same patches and transforms, read and computed faster.

What a trainer class asks for is read from the transforms that it composes, so a subclass with other probabilities, or
without some transforms, gets what it asks for. A class with a transform that we do not know keeps nnU-Net's loaders.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from batchgeneratorsv2.transforms.intensity.brightness import MultiplicativeBrightnessTransform
from batchgeneratorsv2.transforms.intensity.contrast import BGContrast, ContrastTransform
from batchgeneratorsv2.transforms.intensity.gamma import GammaTransform
from batchgeneratorsv2.transforms.intensity.gaussian_noise import GaussianNoiseTransform
from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
from batchgeneratorsv2.transforms.spatial.low_resolution import SimulateLowResolutionTransform
from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.utils.deep_supervision_downsampling import DownsampleSegForDSTransform
from batchgeneratorsv2.transforms.utils.nnunet_masking import MaskImageTransform
from batchgeneratorsv2.transforms.utils.pseudo2d import Convert2DTo3DTransform, Convert3DTo2DTransform
from batchgeneratorsv2.transforms.utils.random import RandomTransform
from batchgeneratorsv2.transforms.utils.remove_label import RemoveLabelTransform
from batchgeneratorsv2.transforms.utils.seg_to_regions import ConvertSegmentationToRegionsTransform

from trainers.data.augment import OUTSIDE, Augmentation
from trainers.data.loader import PatchLoader
from trainers.data.patches import CaseStore, Sampling

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

OFF = Augmentation(
    patch=(), p_rotation=0, p_scaling=0, p_noise=0, p_blur=0, p_brightness=0, p_contrast=0, p_low_resolution=0,
    p_inverted_gamma=0, p_gamma=0, mirror=(),
)  # fmt: skip
SPATIAL = {
    "random_crop": False, "p_elastic_deform": 0, "p_rot_per_axis": 1, "p_synchronize_scaling_across_axes": 1,
    "border_mode_seg": "constant", "padding_value_seg": OUTSIDE, "mode_seg": "bilinear", "mode_image": "bilinear",
    "padding_mode_image": "zeros", "align_corners": False, "bg_style_seg_sampling": False, "seg_tiebreak": "nearest",
}  # fmt: skip
VOLUME = 3


class UnknownTransformError(Exception):
    """A transform, or a setting of one, that we do not have."""


def augmentation_of(transforms: Sequence[Any], patch: Sequence[int]) -> Augmentation:
    """Return nnU-Net's training transforms in our words; raise `UnknownTransformError`.

    The order of the transforms must be nnU-Net's, in which ours are applied.
    """
    found = replace(OFF, patch=tuple(int(size) for size in patch))
    reached = -1
    for transform in transforms:
        inner = transform.transform if isinstance(transform, RandomTransform) else transform
        p = transform.apply_probability if isinstance(transform, RandomTransform) else 1.0
        for place, (kind, read) in enumerate(READERS):
            if type(inner) is kind and place > reached and (changes := read(inner, p)) is not None:
                break
        else:
            raise UnknownTransformError(f"{inner}")
        if p != 1 and not any(key.startswith("p_") for key in changes):
            raise UnknownTransformError(f"{type(inner).__name__} with probability {p}")
        if changes.get("gamma", found.gamma) != found.gamma and found.p_inverted_gamma:
            raise UnknownTransformError("two ranges of gamma")
        reached, found = place, replace(found, **changes)
    slices = (0,) if found.flat else None
    for transform in transforms:
        inner = getattr(transform, "transform", transform)
        if isinstance(inner, SimulateLowResolutionTransform):
            _expect(inner, ignore_axes=slices)
    return found


def _expect(transform: Any, **wanted: Any) -> None:
    for name, value in wanted.items():
        if getattr(transform, name) != value:
            raise UnknownTransformError(f"{type(transform).__name__}.{name} = {getattr(transform, name)!r}")


def _range(value: Any) -> tuple[float, float]:
    """Return the bounds that a parameter is drawn from evenly."""
    if isinstance(value, (int, float)):
        return float(value), float(value)
    if isinstance(value, (list, tuple)):
        return float(value[0]), float(value[1])
    raise UnknownTransformError(f"{value!r}")


def _around_one(value: Any) -> tuple[float, float]:
    if isinstance(value, BGContrast) and isinstance(value.contrast_range, (list, tuple)):
        return _range(value.contrast_range)
    raise UnknownTransformError(f"{value!r}")


def _spatial(transform: Any, p: float) -> dict[str, Any]:
    _expect(transform, **SPATIAL)
    if p != 1:
        raise UnknownTransformError(f"SpatialTransform with probability {p}")
    return {
        "p_rotation": transform.p_rotation, "rotation": _range(transform.rotation),
        "p_scaling": transform.p_scaling, "scaling": _range(transform.scaling),
    }  # fmt: skip


def _noise(transform: Any, p: float) -> dict[str, Any]:
    _expect(transform, p_per_channel=1, synchronize_channels=True)
    return {"p_noise": p, "noise": _range(transform.noise_variance)}


def _blur(transform: Any, p: float) -> dict[str, Any]:
    _expect(transform, synchronize_channels=False, synchronize_axes=False)
    return {"p_blur": p, "p_blur_channel": transform.p_per_channel, "blur": _range(transform.blur_sigma)}


def _brightness(transform: Any, p: float) -> dict[str, Any]:
    _expect(transform, p_per_channel=1, synchronize_channels=False)
    return {"p_brightness": p, "brightness": _around_one(transform.multiplier_range)}


def _contrast(transform: Any, p: float) -> dict[str, Any]:
    _expect(transform, p_per_channel=1, synchronize_channels=False, preserve_range=True)
    return {"p_contrast": p, "contrast": _around_one(transform.contrast_range)}


def _low_resolution(transform: Any, p: float) -> dict[str, Any]:
    _expect(transform, synchronize_channels=False, synchronize_axes=True, allowed_channels=None)
    return {
        "p_low_resolution": p, "p_low_resolution_channel": transform.p_per_channel,
        "low_resolution": _range(transform.scale),
    }  # fmt: skip


def _gamma(transform: Any, p: float, *, inverted: bool) -> dict[str, Any] | None:
    _expect(transform, p_per_channel=1, synchronize_channels=False, p_retain_stats=1)
    if transform.p_invert_image != int(inverted):
        return None
    return {"p_inverted_gamma" if inverted else "p_gamma": p, "gamma": _around_one(transform.gamma)}


def _masked(transform: Any) -> dict[str, Any]:
    _expect(transform, channel_idx_in_seg=0, set_outside_to=0)
    return {"masked": tuple(transform.apply_to_channels)}


def _removed(transform: Any, _: float) -> dict[str, Any]:
    _expect(transform, label_value=OUTSIDE, set_to=0, segmentation_channels=None)
    return {}


# In nnU-Net's order: kind of transform → what it changes of an `Augmentation`; None: another line reads it.
READERS: list[tuple[type, Callable[[Any, float], dict[str, Any] | None]]] = [
    (Convert3DTo2DTransform, lambda _, __: {"flat": True}),
    (SpatialTransform, _spatial),
    (Convert2DTo3DTransform, lambda _, __: {}),
    (GaussianNoiseTransform, _noise),
    (GaussianBlurTransform, _blur),
    (MultiplicativeBrightnessTransform, _brightness),
    (ContrastTransform, _contrast),
    (SimulateLowResolutionTransform, _low_resolution),
    (GammaTransform, lambda transform, p: _gamma(transform, p, inverted=True)),
    (GammaTransform, lambda transform, p: _gamma(transform, p, inverted=False)),
    (MirrorTransform, lambda transform, _: {"mirror": tuple(transform.allowed_axes)}),
    (MaskImageTransform, lambda transform, _: _masked(transform)),
    (RemoveLabelTransform, _removed),
    (ConvertSegmentationToRegionsTransform, lambda _, __: {}),
    (DownsampleSegForDSTransform, lambda _, __: {}),
]


def targets_of(
    regions: Sequence[Sequence[int] | int] | None, scales: Sequence[Sequence[float]] | None
) -> Callable[[Tensor], Tensor | list[Tensor]]:
    """Return what makes a loss's targets of label maps (B, 1, Z, Y, X): regions as channels, one target a scale."""

    def targets(labels: Tensor) -> Tensor | list[Tensor]:
        labels = labels.clamp(min=0)  # beyond the image is background
        if regions is not None:
            labels = torch.cat([_members(labels, region) for region in regions], dim=1)
        if scales is None:
            return labels
        return [_smaller(labels, scale) for scale in scales]

    return targets


def _members(labels: Tensor, region: Sequence[int] | int) -> Tensor:
    """Return where one of a region's labels is; comparisons are many times faster than torch.isin."""
    first, *others = [region] if isinstance(region, int) else region
    found = labels == first
    for label in others:
        found |= labels == label
    return found


def _smaller(labels: Tensor, scale: Sequence[float]) -> Tensor:
    """Return the nearest samples, as `interpolate` does with "nearest-exact", without a detour over float32."""
    for axis, factor in enumerate(scale, start=2):
        size = labels.shape[axis]
        fewer = round(size * factor)
        if fewer != size:
            index = torch.floor((torch.arange(fewer, device=labels.device) + 0.5) * (size / fewer)).long()
            labels = labels.index_select(axis, index)
    return labels


def loaders(trainer: Any, *, seed: int, threads: int) -> tuple[PatchLoader, PatchLoader]:
    """Return the loaders of training and validation patches; raise `UnknownTransformError`."""
    patch = tuple(int(size) for size in trainer.configuration_manager.patch_size)
    scales = trainer._get_deep_supervision_scales()  # noqa: SLF001 - nnU-Net's own loaders ask there
    rotation, dummy_2d, source, mirror = trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
    labels = trainer.label_manager
    regions = labels.foreground_regions if labels.has_regions else None
    transforms = trainer.get_training_transforms(
        patch, rotation, scales, mirror, dummy_2d,
        use_mask_for_norm=trainer.configuration_manager.use_mask_for_norm, is_cascaded=trainer.is_cascaded,
        foreground_labels=labels.foreground_labels, regions=regions, ignore_label=labels.ignore_label,
    )  # fmt: skip
    augmentation = augmentation_of(transforms.transforms, patch)
    if regions is not None and labels.ignore_label is not None:
        regions = [*regions, labels.ignore_label]
    depth = (1,) * (VOLUME - len(patch))
    annotated = (OUTSIDE, *labels.all_labels) if labels.has_ignore_label else None
    sampling = Sampling(
        batch=trainer.batch_size, patch=(*depth, *patch), source=(*depth, *(int(size) for size in source)),
        flat=bool(depth), foreground=trainer.oversample_foreground_percent,
        by_chance=trainer.probabilistic_oversampling, annotated=annotated,
    )  # fmt: skip
    training, validation = trainer.do_split()
    folder = Path(trainer.preprocessed_dataset_folder)
    targets = targets_of(regions, scales)
    return (
        PatchLoader(
            CaseStore(folder, training), sampling, augmentation, targets,
            device=trainer.device, seed=(seed, trainer.local_rank, 0), threads=threads,
        ),
        PatchLoader(
            CaseStore(folder, validation), replace(sampling, source=sampling.patch), None, targets,
            device=trainer.device, seed=(seed, trainer.local_rank, 1), threads=min(threads, 1),
        ),
    )  # fmt: skip
