"""From a cropped case to what the network sees, and the store of preprocessed cases.

CACHE/CASE.b2nd       images (C, Z, Y, X) in planned axes and size, float32
CACHE/CASE_seg.b2nd   mask (1, Z, Y, X), int16; -1 lies outside
CACHE/CASE.json       what was done; the case is whole when it is there
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from trainers.classification.crop import OUTSIDE, crop
from trainers.classification.images import read_case
from trainers.classification.plan import CaseFacts, facts, make_plan, resampled_shape
from trainers.core.cases import each_case
from trainers.core.files import read_json, write_json
from trainers.data.resample import resample_image, resample_labels, slice_axis

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from trainers.classification.config import ClassificationSettings
    from trainers.classification.crop import CroppedCase
    from trainers.classification.dataset import Dataset
    from trainers.classification.plan import Normalisation, Plan
    from trainers.core.progress import Progress

SMALLEST_STD = 1e-8


@dataclass(frozen=True, kw_only=True)
class PreparedCase:
    """What the network sees of a case."""

    images: NDArray[np.float32]  # (C, Z, Y, X) in the plan's axes and size
    mask: NDArray[np.int16]  # (Z, Y, X)
    record: dict[str, Any]  # what was done, for people

    @property
    def cut(self) -> tuple[int, ...]:
        """Return the voxels that were cut off along each axis because the case is larger than the plan."""
        return tuple(self.record["cut"])


def preprocess(case: CroppedCase, plan: Plan) -> PreparedCase:
    """Transpose, resample, normalise, and pad with zeros or cut around the middle to the planned size."""
    spacing = [case.spacing[axis] for axis in plan.transpose]
    images = case.images.transpose(0, *(axis + 1 for axis in plan.transpose))
    mask = np.ascontiguousarray(case.mask.transpose(plan.transpose))
    shape = resampled_shape(mask.shape, spacing, plan)
    axis = slice_axis(spacing, plan.spacing)
    images = np.stack([resample_image(channel, shape, axis) for channel in images])
    mask = resample_labels(mask, shape, axis).astype(np.int16)
    for channel, how in zip(images, plan.normalisation, strict=True):
        normalise(channel, mask, how, masked=plan.mask_outside_roi)
    cut = [max(0, size - planned) for size, planned in zip(shape, plan.image_size, strict=True)]
    record = {
        "shape": list(case.shape), "box": [list(edge) for edge in case.box], "spacing": list(case.spacing),
        "resampled": list(shape), "cut": cut,
    }  # fmt: skip
    return PreparedCase(
        images=fit(images, plan.image_size, 0), mask=fit(mask[None], plan.image_size, OUTSIDE)[0], record=record
    )


def normalise(channel: NDArray[np.float32], mask: NDArray[np.int16], how: Normalisation, *, masked: bool) -> None:
    """Normalise one channel (Z, Y, X) in place; `masked` z-scores look at the region only and put 0 elsewhere."""
    if how.scheme == "ct":
        np.clip(channel, how.low, how.high, out=channel)
        channel -= how.mean
        channel /= max(how.std, SMALLEST_STD)
    elif how.scheme == "zscore":
        inside = mask >= 0 if masked and (mask >= 0).any() else np.ones(mask.shape, bool)
        values = channel[inside].astype(np.float64)
        channel -= values.mean()
        channel /= values.std() + SMALLEST_STD
        channel[~inside] = 0


def fit(volume: NDArray[Any], size: Sequence[int], value: float) -> NDArray[Any]:
    """Pad (C, Z, Y, X) with a value, or cut it, around its middle to a size."""
    result = np.full((len(volume), *size), value, dtype=volume.dtype)
    here, there = [slice(None)], [slice(None)]
    for wanted, found in zip(size, volume.shape[1:], strict=True):
        start = wanted // 2 - found // 2
        here.append(slice(max(0, start), min(wanted, start + found)))
        there.append(slice(max(0, -start), min(found, wanted - start)))
    result[tuple(here)] = volume[tuple(there)]
    return result


def load_case(images: Sequence[Path], mask: Path | None, plan: Plan) -> PreparedCase:
    """Read and preprocess the files of one case."""
    return preprocess(crop(read_case(images, mask, plan.orientation), plan.roi_margin), plan)


def plan_dataset(dataset: Dataset, settings: ClassificationSettings, threads: int, progress: Progress) -> Plan:
    """Look at every case and plan."""

    def one(name: str) -> CaseFacts:
        case = dataset.case(name)
        cropped = crop(read_case(case.images, case.mask, dataset.orientation), settings.roi_margin)
        return facts(cropped, dataset.channels, len(names))

    names = [case.name for case in dataset.cases]
    with progress.stage("plan"), progress.bar("plan", len(names)) as advance:
        found = each_case(one, names, threads, advance)
    return make_plan(dataset, [found[name] for name in names], settings)


def preprocess_dataset(dataset: Dataset, plan: Plan, folder: Path, threads: int, progress: Progress) -> None:
    """Preprocess the cases that are missing in the folder, several at once."""
    folder.mkdir(parents=True, exist_ok=True)
    missing = [case.name for case in dataset.cases if not (folder / f"{case.name}.json").is_file()]
    if not missing:
        return

    def one(name: str) -> tuple[int, ...]:
        case = dataset.case(name)
        prepared = load_case(case.images, case.mask, plan)
        save(folder, name, prepared)
        return prepared.cut

    with progress.stage("preprocess"), progress.bar("preprocess", len(missing)) as advance:
        cut = {name: lost for name, lost in each_case(one, missing, threads, advance).items() if any(lost)}
    for name in sorted(cut):
        lost = " x ".join(map(str, cut[name]))
        progress.say(f"{name}: larger than the planned image: {lost} voxels are cut off around the middle")


def save(folder: Path, name: str, case: PreparedCase) -> None:
    """Write a case into the store; its JSON comes last."""
    from trainers.data.store import write_volume  # with nnU-Net's library, which a prediction does without

    for ending, volume in (("", case.images), ("_seg", case.mask[None])):
        partial, final = (folder / f"{part}{name}{ending}.b2nd" for part in (".part-", ""))
        partial.unlink(missing_ok=True)
        write_volume(partial, volume, volume.shape[1:])
        partial.replace(final)
    write_json(folder / f"{name}.json", case.record)


def load(folder: Path, name: str) -> PreparedCase:
    """Read a case from the store."""
    from trainers.data.store import open_volume

    images, mask = (open_volume(folder / f"{name}{ending}.b2nd")[:] for ending in ("", "_seg"))
    return PreparedCase(images=images, mask=mask[0], record=read_json(folder / f"{name}.json"))
