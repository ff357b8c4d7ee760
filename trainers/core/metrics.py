"""How well a label map agrees with its reference, for each label and case, and the means over cases.

Precision, recall and Dice count voxels. HD95 is the larger of the two directed 95th percentiles of the distances
between the surfaces, in mm, as in Metrics Reloaded (Maier-Hein, Reinke et al., Nature Methods 2024) and in MONAI; other
programs pool both directions first and give smaller values. A surface is the mask's voxels that have at least one of
their six face neighbours outside the mask; beyond the volume is outside. Volume differences are predicted minus
reference. What has no meaning is None: HD95 as soon as one of the two is empty, Dice when both are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

Scores = dict[str, float | None]
METRICS = (
    "dice", "hd95_mm", "precision", "recall", "volume_difference_ml", "volume_difference_percent",
    "reference_ml", "predicted_ml",
)  # fmt: skip
PERCENTILE = 95
BACKGROUND, IGNORE = "background", "ignore"


def regions(labels: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return the values that make up each label to be measured, from the `labels` of a dataset.json."""
    values = {name: value if isinstance(value, list | tuple) else [value] for name, value in labels.items()}
    return {
        name: tuple(int(item) for item in items) for name, items in values.items() if name not in (BACKGROUND, IGNORE)
    }


def values_of(labels: Mapping[str, Any]) -> set[int]:
    """Return every value that a label map may hold besides 0."""
    ignore = {int(labels[IGNORE])} if IGNORE in labels else set()
    return ignore.union(*regions(labels).values())


def case_scores(
    predicted: NDArray[np.integer[Any]],
    reference: NDArray[np.integer[Any]],
    labels: Mapping[str, Any],
    spacing_mm: Sequence[float],
) -> dict[str, Scores]:
    """Compare two label maps of one shape; returns the scores of each label.

    `labels` as in dataset.json: a number, or the list of numbers of a region. Voxels that the reference marks with
    `ignore` count on neither side, as in nnU-Net. `spacing_mm` is the voxel size along each axis.
    """
    counted = reference != int(labels[IGNORE]) if IGNORE in labels else np.ones(reference.shape, bool)
    return {
        name: mask_scores(np.isin(predicted, values) & counted, np.isin(reference, values) & counted, spacing_mm)
        for name, values in regions(labels).items()
    }


def mask_scores(predicted: NDArray[np.bool_], reference: NDArray[np.bool_], spacing_mm: Sequence[float]) -> Scores:
    """Compare two masks of one shape."""
    both, found, wanted = (int(np.count_nonzero(mask)) for mask in (predicted & reference, predicted, reference))
    voxel_ml = float(np.prod(np.asarray(spacing_mm, dtype=np.float64))) / 1000
    return {
        "dice": _ratio(2 * both, found + wanted),
        "hd95_mm": hd95(predicted, reference, spacing_mm),
        "precision": _ratio(both, found),
        "recall": _ratio(both, wanted),
        "volume_difference_ml": (found - wanted) * voxel_ml,
        "volume_difference_percent": _ratio(100 * (found - wanted), wanted),
        "reference_ml": wanted * voxel_ml,
        "predicted_ml": found * voxel_ml,
    }


def hd95(first: NDArray[np.bool_], second: NDArray[np.bool_], spacing_mm: Sequence[float]) -> float | None:
    """Return the 95th percentile Hausdorff distance of two masks in mm; None if one is empty."""
    if not (first.any() and second.any()):
        return None
    # All surface voxels lie in the box around both masks, so distances inside it are the distances in the whole volume.
    box = ndimage.find_objects((first | second).astype(np.uint8))[0]
    surfaces = [surface(first[box]), surface(second[box])]
    to_first, to_second = (ndimage.distance_transform_edt(~edge, sampling=spacing_mm) for edge in surfaces)
    directed = (np.percentile(to_second[surfaces[0]], PERCENTILE), np.percentile(to_first[surfaces[1]], PERCENTILE))
    return float(max(directed))


def surface(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the mask's voxels that have a face neighbour outside the mask or the volume."""
    edge: NDArray[np.bool_] = mask & ~ndimage.binary_erosion(mask)
    return edge


def mean_scores(cases: Mapping[str, Mapping[str, Scores]]) -> dict[str, Scores]:
    """Return each label's means over the cases in which the value is defined; None where it never is."""
    names = dict.fromkeys(name for scores in cases.values() for name in scores)
    return {
        name: {metric: _mean([scores[name][metric] for scores in cases.values()]) for metric in METRICS}
        for name in names
    }


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _mean(values: Sequence[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return sum(defined) / len(defined) if defined else None
