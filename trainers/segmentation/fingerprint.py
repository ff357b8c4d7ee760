"""The dataset fingerprint that nnU-Net plans from: sizes, spacings and foreground intensities.

nnU-Net draws 10^8 foreground voxels with replacement, an equal number from each case, and takes their statistics.
Here the voxels are taken as they are, those of each case with the same total weight: what nnU-Net's draws converge to,
without a random number and with memory for the voxels that there are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from trainers.core.errors import TrainingError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from trainers.segmentation.raw_cases import RawCase

VOXELS_IN_ALL = 10_000_000  # of the foreground; more would change the fourth digit of a percentile
PERCENTILES = {"percentile_00_5": 0.005, "median": 0.5, "percentile_99_5": 0.995}


@dataclass(frozen=True, kw_only=True)
class CaseFacts:
    """What the fingerprint takes from one case."""

    shape: tuple[int, ...]  # after the crop
    spacing: tuple[float, ...]
    relative_size: float  # share of the image that the crop kept
    foreground: NDArray[np.float32]  # (C, voxels)


def facts(case: RawCase, cases: int) -> CaseFacts:
    """Return the facts of one of `cases` cases."""
    foreground = case.images[:, case.labels > 0]
    step = -(-foreground.shape[1] // max(1, VOXELS_IN_ALL // cases))
    return CaseFacts(
        shape=case.labels.shape,
        spacing=case.spacing,
        relative_size=case.labels.size / float(np.prod(case.shape)),
        foreground=foreground[:, :: max(1, step)],
    )


def fingerprint(cases: Sequence[CaseFacts], dataset: str = "the dataset") -> dict[str, Any]:
    """Return the document that nnU-Net's planners read."""
    if not any(case.foreground.size for case in cases):
        raise TrainingError(
            f"{dataset}: no label map has a foreground voxel", hint="draw the labels, or copy them again into labelsTr"
        )
    weights = np.concatenate([np.full(n, 1 / n) for case in cases if (n := case.foreground.shape[1])])
    channels = [
        np.concatenate([case.foreground[channel] for case in cases]) for channel in range(len(cases[0].foreground))
    ]
    return {
        "spacings": [list(case.spacing) for case in cases],
        "shapes_after_crop": [list(case.shape) for case in cases],
        "foreground_intensity_properties_per_channel": {
            str(channel): _statistics(values, weights) for channel, values in enumerate(channels)
        },
        "median_relative_size_after_cropping": float(np.median([case.relative_size for case in cases])),
    }


def _statistics(values: NDArray[np.float32], weights: NDArray[np.float64]) -> dict[str, float]:
    """Return weighted statistics of one channel's foreground."""
    order = np.argsort(values)
    ordered = values[order].astype(np.float64)
    share = weights[order] / weights.sum()
    rising = np.cumsum(share)
    mean = float(ordered @ share)
    found = {
        "mean": mean,
        "std": float(np.sqrt((ordered - mean) ** 2 @ share)),
        "min": float(ordered[0]),
        "max": float(ordered[-1]),
    }
    last = len(ordered) - 1
    for name, level in PERCENTILES.items():
        found[name] = float(ordered[min(int(np.searchsorted(rising, level)), last)])
    return found
