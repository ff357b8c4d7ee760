"""How well lesions were found: voxel by voxel, lesion by lesion, and on cords without any.

A lesion is a connected part of the mask; voxels that share a face, an edge or a corner are connected. A lesion of the
reference counts as found where at least a tenth of its voxels are predicted, a predicted one as right where at least a
tenth of its voxels belong to the reference.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage

from trainers.core.metrics import mask_scores

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from trainers.core.metrics import Scores

ENOUGH = 0.1  # share of a lesion that must overlap
TOUCHING = np.ones((3, 3, 3))
THRESHOLDS = tuple(round(step / 20, 2) for step in range(1, 20))
DEFAULT = 0.5


def lesion_scores(predicted: NDArray[np.bool_], reference: NDArray[np.bool_], spacing_mm: Sequence[float]) -> Scores:
    """Compare two masks: the voxel scores of every recipe and those of lesions.

    Sensitivity has no meaning without a lesion in the reference, precision without a predicted one; both are None
    then. `false_positive_ml` is the predicted volume where the reference has no lesion, None where it has.
    """
    scores = mask_scores(predicted, reference, spacing_mm)
    wanted, found = _found(reference, predicted), _found(predicted, reference)
    sensitivity = float(wanted.mean()) if len(wanted) else None
    precision = float(found.mean()) if len(found) else None
    both = None if sensitivity is None and precision is None else (sensitivity or 0.0, precision or 0.0)
    return {
        **scores,
        "lesion_sensitivity": sensitivity,
        "lesion_precision": precision,
        "lesion_f1": None if both is None else (2 * both[0] * both[1] / sum(both) if sum(both) else 0.0),
        "reference_lesions": len(wanted),
        "predicted_lesions": len(found),
        "false_positive_ml": None if len(wanted) else scores["predicted_ml"],
    }


def _found(lesions: NDArray[np.bool_], other: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return for each connected part whether enough of it lies in the other mask."""
    parts, count = ndimage.label(lesions, structure=TOUCHING)
    sizes = np.bincount(parts.ravel(), minlength=count + 1)[1:]
    common = np.bincount(parts[other], minlength=count + 1)[1:]
    return np.asarray(common >= ENOUGH * sizes)


def choose_threshold(
    cases: Iterable[tuple[NDArray[np.float32], NDArray[np.bool_]]],
) -> tuple[float, dict[str, float]]:
    """Return the threshold with the best mean Dice over validation cases (probability, reference), and all means.

    A case without a lesion counts 1 where nothing is predicted and 0 otherwise, so that false alarms cost something.
    Of equally good thresholds the one nearest to 0.5 is taken; without a case it is 0.5.
    """
    rows = [[_dice(probability >= t, truth) for t in THRESHOLDS] for probability, truth in cases]
    if not rows:
        return DEFAULT, {}
    means = dict(zip(THRESHOLDS, np.mean(rows, axis=0).tolist(), strict=True))
    best = max(means.values())
    chosen = min((t for t, dice in means.items() if dice == best), key=lambda t: abs(t - DEFAULT))
    return chosen, {f"{threshold:g}": dice for threshold, dice in means.items()}


def _dice(predicted: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    total = int(predicted.sum()) + int(truth.sum())
    return 2 * int((predicted & truth).sum()) / total if total else 1.0


def heading(scores: Scores) -> str:
    """Return a case's scores in a line."""
    count, found = scores["reference_lesions"] or 0, scores["predicted_lesions"] or 0
    if not count:
        return f"no lesion, {found:g} predicted ({scores['predicted_ml'] or 0:.3f} ml)"
    wanted = round((scores["lesion_sensitivity"] or 0) * count)
    right = round((scores["lesion_precision"] or 0) * found)
    dice = scores["dice"] or 0
    return f"Dice {dice:.2f}, {wanted} of {count:g} lesions found, {right} of {found:g} predicted are right"


def choose_shown(names: Sequence[str], most: int) -> list[str]:
    """Return at most so many cases for a figure, spread over all."""
    return list(names[:: max(1, -(-len(names) // most))]) if most else []


def summary(cases: Mapping[str, Scores]) -> dict[str, Any]:
    """Return medians and quartiles over the cases in which a value is defined, and totals over lesions."""
    result: dict[str, Any] = {}
    for metric in dict.fromkeys(key for scores in cases.values() for key in scores):
        values = [value for scores in cases.values() if (value := scores.get(metric)) is not None]
        if values:
            low, median, high = np.percentile(values, (25, 50, 75))
            result[metric] = {"median": float(median), "iqr": [float(low), float(high)], "cases": len(values)}
    return result
