"""One grid for all cases of a task: spacing, image size, batch size and normalisation, from what the cases are.

Rules of nnU-Net v1 and of the AUC23 baseline, in arrays of axis order (Z, Y, X) of the plan's orientation, then
transposed so that the axis of the coarsest spacing comes first. A plan is a JSON document.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from trainers.core.errors import TrainingError
from trainers.core.files import read_json
from trainers.data.resample import new_shape

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from trainers.classification.config import ClassificationSettings
    from trainers.classification.crop import CroppedCase
    from trainers.classification.dataset import Dataset

ANISOTROPY = 3.0
COARSE_PERCENTILE = 10
PERCENTILES = (0.5, 99.5)
SAMPLES_IN_ALL = 10_000_000  # voxels for the statistics of CT
FEWEST, MOST = 2, 8  # cases a step
# Of a training step, a case: measured on I3D at 32, 64, 96 and 128 voxels cubed; of the others what their layers keep.
BYTES_PER_VOXEL = {"i3d": 550, "resenc": 3000, "primus": 4000}
PACKAGES = ("mreg", "torch", "numpy", "scipy")

Triple = tuple[float, float, float]
Size = tuple[int, int, int]


class Part(BaseModel):
    """An object of the plan; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class PlannedLabel(Part):
    """A question and its answers, in the order of the network's outputs."""

    name: str
    values: tuple[str, ...]


class Normalisation(Part):
    """How a channel's intensities become comparable."""

    scheme: Literal["ct", "zscore", "none"]
    mean: float = 0.0  # of CT, over the regions of interest of all training cases
    std: float = 1.0
    low: float = 0.0  # 0.5 and 99.5 percentiles, to which CT is clipped
    high: float = 0.0


class PlannedNet(Part):
    """What the net is made of; the settings of the same names, and every size of a ResEnc or a Primus."""

    encoder: Literal["i3d", "resenc", "primus"] = "i3d"
    options: dict[str, Any] = {}
    width: float = 1.0
    norm: Literal["batch", "group"] = "batch"
    pool: Literal["global", "video"] = "global"
    dropout: float = 0.0


class Plan(Part):
    """Everything that a case needs to become what the network sees."""

    plans_name: Literal["ClassificationPlans"] = "ClassificationPlans"
    orientation: str  # SCT's letters
    channels: tuple[str, ...]
    labels: tuple[PlannedLabel, ...]
    roi_classes: int  # foreground classes of the masks; 0: the model takes no mask
    roi_margin: float
    mask_outside_roi: bool
    transpose: tuple[int, int, int]  # which axis of (Z, Y, X) each planned axis is
    spacing: Triple  # mm, in planned axes
    image_size: Size  # voxels, in planned axes
    batch_size: int
    normalisation: tuple[Normalisation, ...]
    net: PlannedNet
    versions: dict[str, str]

    @property
    def classes(self) -> tuple[int, ...]:
        """Return the number of classes of each label."""
        return tuple(len(label.values) for label in self.labels)

    @property
    def has_roi(self) -> bool:
        """Whether the model takes a mask with each image."""
        return self.roi_classes > 0


@dataclass(frozen=True, kw_only=True)
class CaseFacts:
    """What the plan takes from one case."""

    shape: tuple[int, ...]  # after the crop, (Z, Y, X)
    spacing: tuple[float, ...]
    samples: dict[int, NDArray[np.float32]]  # channel → intensities in the region, of CT only


def scheme(channel: str) -> Literal["ct", "zscore", "none"]:
    """Return how a channel of that name is normalised."""
    if channel in ("CT", "ct"):
        return "ct"
    return "none" if channel == "noNorm" else "zscore"


def facts(case: CroppedCase, channels: Sequence[str], cases: int) -> CaseFacts:
    """Return the facts of one of `cases` cases."""
    samples = {}
    for number, channel in enumerate(channels):
        if scheme(channel) == "ct":
            inside = case.images[number][case.mask > 0]
            samples[number] = inside[:: max(1, -(-inside.size * cases // SAMPLES_IN_ALL))]
    return CaseFacts(shape=case.mask.shape, spacing=case.spacing, samples=samples)


def make_plan(dataset: Dataset, cases: Sequence[CaseFacts], settings: ClassificationSettings) -> Plan:
    """Plan a task from the facts of its training cases; what the settings say is taken as it is."""
    spacings = np.array([case.spacing for case in cases])
    shapes = np.array([case.shape for case in cases])
    target = np.array(settings.spacing) if settings.spacing else target_spacing(spacings, shapes)
    sizes = np.max(np.ceil(np.round(shapes * spacings / target, 6)), axis=0)
    excess = float(np.prod(sizes)) / (settings.resolved().max_voxels or math.inf)
    if excess > 1:
        factor = excess ** (1 / 3)
        target, sizes = target * factor, np.ceil(np.round(sizes / factor, 6))
    # Encoders of pre-training know the axes as they are; I3D halves the first one less often than the others.
    transpose = transposition(target) if settings.is_i3d else (0, 1, 2)
    coarsest, first, second = transpose
    size = settings.image_size or (int(sizes[coarsest]), int(sizes[first]), int(sizes[second]))
    return Plan(
        orientation=dataset.orientation,
        channels=dataset.channels,
        labels=tuple(PlannedLabel(name=label.name, values=label.values) for label in dataset.labels),
        roi_classes=dataset.roi_classes,
        roi_margin=settings.roi_margin,
        mask_outside_roi=settings.mask_outside_roi,
        transpose=transpose,
        spacing=(float(target[coarsest]), float(target[first]), float(target[second])),
        image_size=size,
        batch_size=settings.batch_size or planned_batch(math.prod(size), settings.memory_gib, len(cases)),
        normalisation=tuple(_normalisation(number, name, cases) for number, name in enumerate(dataset.channels)),
        net=PlannedNet(),
        versions={package: metadata.version(package) for package in PACKAGES},
    )


def target_spacing(spacings: NDArray[np.float64], shapes: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the median spacing of cases (N, 3); of an axis of thick slices what the finest tenth of them have.

    That is so where the axis is more than three times as coarse as the others and has less than a third of their
    voxels; it never becomes finer than the others.
    """
    target = np.median(spacings, axis=0)
    worst = int(np.argmax(target))
    others = [axis for axis in range(len(target)) if axis != worst]
    sizes = np.median(shapes, axis=0)
    if target[worst] > ANISOTROPY * target[others].max() and sizes[worst] * ANISOTROPY < sizes[others].min():
        target[worst] = max(np.percentile(spacings[:, worst], COARSE_PERCENTILE), target[others].max())
    return np.asarray(target)


def transposition(spacing: Sequence[float] | NDArray[np.float64]) -> tuple[int, int, int]:
    """Return the axes with the coarsest first, the others in their order."""
    coarsest = int(np.argmax(np.round(spacing, 6)))
    first, second = (axis for axis in range(3) if axis != coarsest)
    return coarsest, first, second


def planned_batch(voxels: int, memory_gib: float, cases: int, encoder: str = "i3d") -> int:
    """Return the cases a step that fit into memory, at least two, at most eight and no more than there are."""
    fitting = int(memory_gib * 2**30 / (BYTES_PER_VOXEL[encoder] * voxels))
    return max(FEWEST, min(MOST, fitting, cases))


def _normalisation(number: int, channel: str, cases: Sequence[CaseFacts]) -> Normalisation:
    kind = scheme(channel)
    if kind != "ct":
        return Normalisation(scheme=kind)
    values = np.concatenate([case.samples[number] for case in cases]).astype(np.float64)
    low, high = np.percentile(values, PERCENTILES)
    return Normalisation(
        scheme=kind, mean=float(values.mean()), std=float(values.std()), low=float(low), high=float(high)
    )


def resampled_shape(shape: Sequence[int], spacing: Sequence[float], plan: Plan) -> tuple[int, ...]:
    """Return the voxels of a case in planned axes at the planned spacing, at least one along each."""
    return tuple(max(1, size) for size in new_shape(shape, spacing, plan.spacing))


def read_plan(folder: Path) -> Plan:
    """Read the plan of a run or a released model."""
    path = folder / "plans.json"
    try:
        document: Any = read_json(path)
        return Plan.model_validate(document)
    except FileNotFoundError:
        raise TrainingError(f"{path}: no such file", hint="is that the folder of a model?") from None
    except (ValidationError, ValueError) as error:
        raise TrainingError(f"{path}: not a plan of this recipe: {str(error).splitlines()[0]}") from error
