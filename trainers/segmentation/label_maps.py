"""Logits on the network's grid to the label map of an image, a few rows at a time.

nnU-Net interpolates the logits of the whole volume to the image's grid, linearly and in 64 bits, rounds them to 16 bits
and takes the largest one, or of regions those above a half. The rows of a volume are interpolated one from the other
two at most, so this is done here while the sliding window moves on, and only one row block of logits is ever held.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
from nnunetv2.utilities.label_handling.label_handling import LabelManager

from trainers.data import resample

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
    from numpy.typing import NDArray
    from torch import Tensor

    from trainers.segmentation.sliding_window import SlidingWindow

NNUNETS_RESAMPLING = {
    "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
    "resampling_fn_probabilities_kwargs": {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None},
}
VALUES_AT_ONCE = 1 << 22  # logits that are interpolated at one go
SPATIAL = 3
MANY_LABELS = 255  # nnU-Net: from here on, label maps take 16 bits


def is_nnunets_own(plan: dict[str, Any]) -> bool:
    """Whether a configuration interpolates logits by nnU-Net's default, which is what we know to do by rows."""
    return all(plan.get(key) == value for key, value in NNUNETS_RESAMPLING.items())


def segment(
    window: SlidingWindow,
    volume: NDArray[np.float32],
    properties: dict[str, Any],
    plans: PlansManager,
    configuration: ConfigurationManager,
    dataset_json: dict[str, Any],
) -> NDArray[np.unsignedinteger[Any]]:
    """Return the label map (Z, Y, X) of an image from its preprocessed volume (channels, Z, Y, X) and properties."""
    tensor, grid = torch.from_numpy(volume), volume.shape[1:]
    try:
        return label_map(window.slabs(tensor), grid, properties, plans, configuration, dataset_json)
    except OverflowError:  # some thousands, which 16 bits cannot sum; nnU-Net gives up here
        slabs = window.slabs(tensor, torch.float32)
        return label_map(slabs, grid, properties, plans, configuration, dataset_json)


def label_map(
    slabs: Iterable[Tensor],
    grid: Sequence[int],
    properties: dict[str, Any],
    plans: PlansManager,
    configuration: ConfigurationManager,
    dataset_json: dict[str, Any],
) -> NDArray[np.unsignedinteger[Any]]:
    """Return the label map (Z, Y, X) of an image from its logits.

    `slabs` are logits (classes, rows, Y, X) that follow each other along the first axis of the network's `grid`
    (Z, Y, X), and `properties` what the preprocessing of the image said.
    """
    manager = plans.get_label_manager(dataset_json)
    if not is_nnunets_own(configuration.configuration):
        whole = torch.cat([slab.cpu() for slab in slabs], 1)
        found = convert_predicted_logits_to_segmentation_with_correct_shape(
            whole, plans, configuration, manager, properties, num_threads_torch=torch.get_num_threads()
        )
        return np.asarray(found)
    kind = np.uint8 if len(manager.foreground_labels) < MANY_LABELS else np.uint16
    labels = np.zeros(properties["shape_before_cropping"], dtype=kind)
    inside = labels[tuple(slice(*edges) for edges in properties["bbox_used_for_cropping"])]
    spacing = [properties["spacing"][axis] for axis in plans.transpose_forward]
    current = list(configuration.spacing)
    current = spacing[: SPATIAL - len(current)] + current
    shape = tuple(properties["shape_after_cropping_and_before_resampling"])
    row = 0
    for block in interpolated(slabs, grid, shape, resample.slice_axis(current, spacing)):
        found = _labels(block, manager)
        inside[row : row + len(found)] = found
        row += len(found)
    return labels.transpose(plans.transpose_backward)


def _labels(logits: Tensor, manager: Any) -> NDArray[Any]:
    """Return the labels of logits: the first of the largest, or the regions one over the other."""
    if type(manager) is not LabelManager:  # a dataset's plans may name another way
        return np.asarray(manager.convert_logits_to_segmentation(logits.cpu()))
    if manager.has_regions:
        return np.asarray(manager.convert_logits_to_segmentation(logits).cpu())
    best, labels = logits[0].float(), torch.zeros(logits.shape[1:], dtype=torch.int16, device=logits.device)
    for label in range(1, len(logits)):
        score = logits[label].float()
        labels.masked_fill_(score > best, label)
        best = torch.maximum(best, score)
    return labels.cpu().numpy()


def interpolated(
    slabs: Iterable[Tensor], grid: Sequence[int], shape: Sequence[int], axis: int | None = None
) -> Iterator[Tensor]:
    """Yield logits on the grid of `shape` samples, block of rows by block of rows, in the slabs' type and place.

    Linear; the nearest slice along `axis`. The slabs together are the volume (classes, Z, Y, X) of `grid`.
    """
    if tuple(grid) == tuple(shape):
        yield from slabs
        return
    left, right, weight = _neighbours(grid[0], shape[0], nearest=axis == 0)
    held: Tensor | None = None  # rows from `first` on that are still needed
    first = row = 0
    for slab in slabs:
        held = slab if held is None else torch.cat([held, slab], 1)
        ready = int(np.searchsorted(right, first + held.shape[1]))  # rows whose neighbours are here
        step = max(1, VALUES_AT_ONCE // (len(held) * shape[1] * shape[2]))
        for start in range(row, ready, step):
            part = slice(start, min(start + step, ready))
            low, high = int(left[part][0]), int(right[part][-1]) + 1
            block = held[:, low - first : high - first].float()
            block = _blend(block, 1, left[part] - low, right[part] - low, weight[part])
            for a in (1, 2):
                if grid[a] != shape[a]:
                    block = _blend(block, a + 1, *_neighbours(grid[a], shape[a], nearest=axis == a))
            yield block.to(slab.dtype)
        row = ready
        done = min(int(left[row]) - first, held.shape[1]) if row < shape[0] else held.shape[1]
        held, first = held[:, done:].clone(), first + done


def _neighbours(size: int, new: int, *, nearest: bool) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return for each new sample its left and right neighbour and the right one's weight."""
    if nearest:
        only = resample.nearest_slice(size, new)
        return only, only, np.zeros(new)
    left, right, weight, _ = resample.linear(size, new)
    return left, right, weight


def _blend(values: Tensor, axis: int, left: NDArray[Any], right: NDArray[Any], weight: NDArray[Any]) -> Tensor:
    """Return values between their neighbours along an axis."""
    places = [torch.from_numpy(np.ascontiguousarray(side)).to(values.device) for side in (left, right)]
    if not weight.any():
        return values.index_select(axis, places[0])
    shape = [-1 if a == axis else 1 for a in range(values.ndim)]
    share = torch.from_numpy(weight.astype(np.float32)).to(values.device).reshape(shape)
    return torch.lerp(values.index_select(axis, places[0]), values.index_select(axis, places[1]), share)
