"""Intensities that mean the same in every image: histogram landmarks (Nyúl and Udupa) or a z-score.

Percentiles are taken over tissue around the cord only. Voxels beyond the image and empty slices would move them: with a
third of the slices empty, the same tissue ends half a training standard deviation higher.

Between the landmarks the map is linear, beyond them it goes on with the slope of the last stretch for a while and then
stays: it never falls, so a brighter voxel stays brighter.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np

from trainers.core.errors import TrainingError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

Scheme = Literal["nyul", "zscore", "sct-t2", "sct-t2_ax", "sct-t2s"]
PERCENTILES = (1, 10, 20, 30, 40, 50, 60, 70, 80, 90, 99)
SCALE = 1000.0  # of landmarks fitted here
BEYOND = 0.25  # of the scale, to which the map goes on at either end
SAMPLE = 20_000  # voxels of a case that stand for all when mean and standard deviation are fitted
LEAST_STEP = 1e-3  # of the scale, between neighbouring landmarks
# Landmarks, mean and standard deviation that SCT's lesion models were trained with.
PUBLISHED: dict[str, tuple[tuple[float, ...], float, float]] = {
    "sct-t2": (
        (0, 136.832187, 312.158435, 448.96803, 568.657779, 696.671586, 859.221138, 1074.463414, 1373.289174,
         1811.522669, 2611), 871.309, 557.916,
    ),
    "sct-t2_ax": (
        (0, 112.195357, 291.611185, 446.727066, 581.10397, 702.979079, 833.318257, 1011.856313, 1268.801813,
         1687.137075, 2611), 835.592, 528.386,
    ),
    "sct-t2s": (
        (0, 123.246969, 226.422561, 338.361023, 532.341924, 788.693675, 1096.975553, 1407.979466, 1716.52453,
         2079.788451, 2611), 1011.31, 678.985,
    ),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True, eq=False)
class Tissue:
    """What standardisation needs to know of the voxels around one cord."""

    points: NDArray[np.float64]  # percentiles, strictly increasing
    mean: float
    std: float
    sample: NDArray[np.float32]  # of the voxels, in no order

    @classmethod
    def of(cls, voxels: NDArray[np.float32]) -> Self:
        """Look at the voxels (N,); raise `TrainingError` for a single value."""
        points = percentiles(voxels)
        sample = voxels[:: max(1, len(voxels) // SAMPLE)]
        mean, std = float(voxels.mean(dtype=np.float64)), float(voxels.std(dtype=np.float64))
        return cls(points=points, mean=mean, std=std, sample=sample)


@dataclass(frozen=True, kw_only=True)
class Standard:
    """How a model standardises; saved with it. `landmarks` go by contrast, "" for one that was not trained on."""

    scheme: Scheme = "nyul"
    landmarks: dict[str, tuple[float, ...]] = field(default_factory=dict)
    mean: float = 0.0
    std: float = 1.0

    @classmethod
    def published(cls, scheme: Scheme) -> Self:
        """Return the landmarks of a published model."""
        landmarks, mean, std = PUBLISHED[scheme]
        return cls(scheme=scheme, landmarks={"": landmarks}, mean=mean, std=std)

    @classmethod
    def fit(cls, tissues: Iterable[tuple[str, Tissue]]) -> Self:
        """Return landmarks of training cases, given as (contrast, tissue); for each contrast its own.

        As Nyúl and Udupa: each case's percentiles are stretched to the scale from the first to the last, and averaged.
        """
        found, samples = defaultdict(list), []
        for contrast, tissue in tissues:
            points = tissue.points
            stretched = (points - points[0]) / (points[-1] - points[0]) * SCALE
            for key in {contrast, ""}:
                found[key].append(stretched)
            samples.append((contrast, tissue))
        landmarks = {key: tuple(_increasing(np.mean(rows, axis=0)).tolist()) for key, rows in sorted(found.items())}
        fitted = cls(landmarks=landmarks)
        mapped = [fitted.apply(tissue.sample, tissue, contrast) for contrast, tissue in samples]
        mean = float(np.mean([part.mean(dtype=np.float64) for part in mapped]))
        square = float(np.mean([np.square(part - mean).mean(dtype=np.float64) for part in mapped]))
        return cls(landmarks=landmarks, mean=mean, std=square**0.5)

    def apply(self, image: NDArray[np.float32], tissue: Tissue, contrast: str = "") -> NDArray[np.float32]:
        """Return an image standardised after its own tissue; float32."""
        if self.scheme == "zscore":
            return ((image - np.float32(tissue.mean)) / np.float32(tissue.std)).astype(np.float32)
        target = np.asarray(self.landmarks.get(contrast) or self.landmarks[""], dtype=np.float64)
        mapped = _map(image, tissue.points, target)
        return ((mapped - self.mean) / self.std).astype(np.float32)

    def as_json(self) -> dict[str, Any]:
        """Return everything that `from_json` needs."""
        return {
            "scheme": self.scheme, "percentiles": list(PERCENTILES), "mean": self.mean, "std": self.std,
            "landmarks": {key: list(values) for key, values in self.landmarks.items()},
        }  # fmt: skip

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Self:
        """Return what `as_json` gave."""
        landmarks = {key: tuple(values) for key, values in document["landmarks"].items()}
        return cls(scheme=document["scheme"], landmarks=landmarks, mean=document["mean"], std=document["std"])


def percentiles(voxels: NDArray[Any]) -> NDArray[np.float64]:
    """Return the landmarks' percentiles, strictly increasing; raise `TrainingError` for a single value."""
    if not voxels.size:
        raise TrainingError("there is no tissue around the cord")
    found = np.percentile(voxels.astype(np.float64), PERCENTILES)
    if not found[-1] > found[0]:
        raise TrainingError("the image has a single value around the cord")
    return _increasing(found)


def _increasing(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Push equal values apart, from below, within the range that there was."""
    step = LEAST_STEP * (values[-1] - values[0])
    result = values.copy()
    for index in range(1, len(result)):
        result[index] = max(result[index], result[index - 1] + step)
    stretch = (values[-1] - values[0]) / (result[-1] - result[0])
    return np.asarray(values[0] + (result - result[0]) * stretch)


def _map(image: NDArray[Any], points: NDArray[np.float64], target: NDArray[np.float64]) -> NDArray[np.float64]:
    """Map piecewise linearly, monotone everywhere and constant far beyond the last landmarks."""
    room = BEYOND * (target[-1] - target[0])
    ends = []
    for edge, inner, sign in ((0, 1, -1), (-1, -2, 1)):
        slope = (target[edge] - target[inner]) / (points[edge] - points[inner])
        ends.append((points[edge] + sign * room / slope, target[edge] + sign * room))
    x = np.concatenate([[ends[0][0]], points, [ends[1][0]]])
    y = np.concatenate([[ends[0][1]], target, [ends[1][1]]])
    return np.asarray(np.interp(image, x, y), dtype=np.float64)
