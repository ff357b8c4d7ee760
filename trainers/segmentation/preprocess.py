"""Raw cases to what nnU-Net trains on: the same voxels as its own preprocessor, in a fraction of its time.

The steps are nnU-Net's and in its order: transpose, crop to what is not zero, normalise, resample, sample voxels of
each class, save. What differs is how: separable resampling, foreground looked for in its own box, a codec as fast as
memory, and threads that share one process in place of processes that each import torch.
"""

from __future__ import annotations

import errno
import pickle
from typing import TYPE_CHECKING, Any

import numpy as np
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor

from trainers.core.errors import TrainingError
from trainers.data import resample, store
from trainers.segmentation.raw_cases import OUTSIDE, box_of, filled, nonzero

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
    from numpy.typing import NDArray

    from trainers.segmentation.raw_cases import RawCase

SPATIAL = 3
NNUNETS_RESAMPLING = {
    "resampling_fn_data": "resample_data_or_seg_to_shape",
    "resampling_fn_seg": "resample_data_or_seg_to_shape",
    "resampling_fn_data_kwargs": {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None},
    "resampling_fn_seg_kwargs": {"is_seg": True, "order": 1, "order_z": 0, "force_separate_z": None},
}


def is_nnunets_own(plan: dict[str, Any]) -> bool:
    """Whether a configuration asks for nnU-Net's default preprocessor and resampling, which is what we know to do."""
    return plan["preprocessor_name"] == "DefaultPreprocessor" and all(
        plan.get(key) == value for key, value in NNUNETS_RESAMPLING.items()
    )


def preprocess(
    case: RawCase, plans: PlansManager, configuration: ConfigurationManager, dataset_json: dict[str, Any]
) -> tuple[NDArray[np.float32], NDArray[np.int16], dict[str, Any]]:
    """Return image (C, Z, Y, X), label map (1, Z, Y, X) and properties, as nnU-Net's preprocessor would."""
    order = plans.transpose_forward
    # A copy: the case may be kept for another configuration, and normalising works in place.
    images = case.images.transpose(0, *(axis + 1 for axis in order)).copy()
    labels = case.labels.transpose(order)
    own = DefaultPreprocessor(verbose=False)
    images, axis = _normalised(images, labels, [case.spacing[a] for a in order], plans, configuration, own)
    resampled = resample.resample_labels(np.ascontiguousarray(labels), images.shape[1:], axis)
    properties = {
        **case.geometry,
        "shape_before_cropping": tuple(case.shape[axis] for axis in order),
        "bbox_used_for_cropping": [list(case.box[axis]) for axis in order],
        "shape_after_cropping_and_before_resampling": tuple(case.labels.shape[axis] for axis in order),
        "class_locations": _class_locations(own, resampled, plans.get_label_manager(dataset_json)),
    }
    return images, resampled[None].astype(np.int16, copy=False), properties


def preprocess_image(
    images: NDArray[np.float32],
    spacing: Sequence[float],
    plans: PlansManager,
    configuration: ConfigurationManager,
    dataset_json: dict[str, Any],
) -> tuple[NDArray[np.float32], dict[str, Any]]:
    """Return an image (C, Z, Y, X) without labels as the network takes it, and properties for the way back.

    `spacing` is in mm along Z, Y and X. `images` are overwritten where that saves a copy. Plans with another
    preprocessor or resampling than nnU-Net's defaults are left to nnU-Net.
    """
    if not is_nnunets_own(configuration.configuration):
        own = configuration.preprocessor_class(verbose=False)
        found = own.run_case_npy(images, None, {"spacing": list(spacing)}, plans, configuration, dataset_json)
        return found[0], found[2]
    order = plans.transpose_forward
    images = images.transpose(0, *(axis + 1 for axis in order))
    shape = images.shape[1:]
    mask = nonzero(images)
    box = box_of(mask, shape)
    inside = tuple(slice(*edges) for edges in box)
    images = np.ascontiguousarray(images[(slice(None), *inside)])
    labels = None  # nnU-Net's way to say where the image is: only a normalisation within the mask looks
    if mask is not None and any(configuration.use_mask_for_norm):
        labels = np.where(filled(mask[inside]), 0, OUTSIDE).astype(np.int8)
    properties = {
        "spacing": list(spacing),
        "shape_before_cropping": shape,
        "bbox_used_for_cropping": [list(edges) for edges in box],
        "shape_after_cropping_and_before_resampling": images.shape[1:],
    }
    del mask
    if labels is None:
        labels = np.broadcast_to(np.int8(0), images.shape[1:])
    along = [spacing[axis] for axis in order]
    images, _ = _normalised(images, labels, along, plans, configuration, DefaultPreprocessor(verbose=False))
    return images, properties


def _normalised(
    images: NDArray[np.float32],
    labels: NDArray[np.integer[Any]],
    spacing: list[float],
    plans: PlansManager,
    configuration: ConfigurationManager,
    own: DefaultPreprocessor,
) -> tuple[NDArray[np.float32], int | None]:
    """Return images (C, Z, Y, X) normalised and resampled, and the axis along which slices were only copied."""
    intensities = plans.foreground_intensity_properties_per_channel
    images = own._normalize(images, labels[None], configuration, intensities)  # noqa: SLF001 - its only home
    target = list(configuration.spacing)
    target = spacing[: SPATIAL - len(target)] + target  # a 2D plan leaves the distance of slices alone
    shape = resample.new_shape(images.shape[1:], spacing, target)
    axis = resample.slice_axis(spacing, target)
    if shape == images.shape[1:]:
        return images, axis
    found = np.empty((len(images), *shape), dtype=np.float32)
    for channel, image in enumerate(images):
        found[channel] = resample.resample_image(image, shape, axis)
    return found, axis


def _class_locations(own: DefaultPreprocessor, labels: NDArray[np.integer[Any]], manager: Any) -> dict[Any, Any]:
    """Return sampled voxels (0, z, y, x) of each class or region: nnU-Net's draws, searched in the foreground's box."""
    wanted = list(manager.foreground_regions if manager.has_regions else manager.foreground_labels)
    if manager.has_ignore_label:
        wanted.append([-1, *manager.all_labels])
        box = (slice(None),) * SPATIAL
    else:
        box = _box(labels > 0)
    found = own._sample_foreground_locations(labels[None][(slice(None), *box)], wanted)  # noqa: SLF001
    corner = np.array([0, *(edge.start or 0 for edge in box)])
    return {key: places + corner if len(places) else places for key, places in found.items()}


def _box(mask: NDArray[np.bool_]) -> tuple[slice, ...]:
    """Return the box of a mask, or of its first voxel where it is empty."""
    found = []
    for axis in range(SPATIAL):
        along = np.flatnonzero(mask.any(axis=tuple(a for a in range(SPATIAL) if a != axis)))
        found.append(slice(int(along[0]), int(along[-1]) + 1) if len(along) else slice(0, 1))
    return tuple(found)


def save(
    out: Path,
    case: str,
    arrays: tuple[NDArray[np.float32], NDArray[np.int16], dict[str, Any]],
    patch: tuple[int, ...],
    threads: int,
) -> None:
    """Write a case under temporary names; its .pkl, renamed last, says that it is whole.

    Raises `TrainingError` where the disk has no room, with nothing left of the case.
    """
    images, labels, properties = arrays
    partial = out / f".{case}.part"
    for file in out.glob(f".{case}.part*"):
        file.unlink()  # blosc2 refuses to overwrite what a killed process left behind
    try:
        store.write_volume(out / f"{partial.name}.b2nd", images, patch, threads)
        store.write_volume(out / f"{partial.name}_seg.b2nd", labels, patch, threads)
        with (out / f"{partial.name}.pkl").open("wb") as stream:
            pickle.dump(properties, stream)  # nnU-Net reads this format; only our own cache is ever unpickled
    except (OSError, TrainingError) as error:
        for file in out.glob(f".{case}.part*"):
            file.unlink()
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise TrainingError(f"{out}: the disk is full, {case} was not written", hint=store.MAKE_ROOM) from error
        raise
    for ending in (".b2nd", "_seg.b2nd", ".pkl"):
        (out / f"{partial.name}{ending}").replace(out / f"{case}{ending}")
