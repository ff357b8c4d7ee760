"""What a classifier is worth: figures of each label on cases that were not trained on.

    {"folds": [0, 1], "cases": {case: {"fold": 0, "labels": {label: {"target": 1, "probabilities": [0.2, 0.8]}}}},
     "labels": {label: {"cases", "unknown", "accuracy", "balanced_accuracy", "macro_auc", "brier", "ece", "confusion",
                        "classes": {value: {"auc", "interval", "reason", "positive", "negative"}}}}}

An AUC that is not defined is null, and `reason` says why. Of two classes only the second one has an entry.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from trainers.classification.network import Probabilities
    from trainers.classification.plan import Plan, PlannedLabel

BINS = 10  # of the calibration error
RESAMPLES = 1000
INTERVAL = (2.5, 97.5)  # percentiles
BINARY = 2


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A case, what is known of it and what was said of it."""

    name: str
    fold: int | str
    group: str
    targets: tuple[int | None, ...]
    probabilities: Probabilities


def report(plan: Plan, cases: Sequence[Judged], *, seed: int | None = None) -> dict[str, Any]:
    """Return the document; with a seed the AUCs come with a 95 % interval, from a bootstrap over groups."""
    return {
        "folds": sorted({case.fold for case in cases}, key=str),
        "cases": {case.name: _case(plan, case) for case in sorted(cases, key=lambda case: case.name)},
        "labels": {label.name: _label(n, label, cases, seed) for n, label in enumerate(plan.labels)},
    }


def judged_cases(document: Mapping[str, Any], plan: Plan, groups: Mapping[str, str]) -> list[Judged]:
    """Read the cases back from a document."""
    return [
        Judged(
            name=name,
            fold=case["fold"],
            group=groups.get(name, name),
            targets=tuple(case["labels"][label.name]["target"] for label in plan.labels),
            probabilities=tuple(tuple(case["labels"][label.name]["probabilities"]) for label in plan.labels),
        )
        for name, case in document["cases"].items()
    ]


def _case(plan: Plan, case: Judged) -> dict[str, Any]:
    labels = zip(plan.labels, case.targets, case.probabilities, strict=True)
    return {
        "fold": case.fold,
        "labels": {label.name: {"target": target, "probabilities": list(found)} for label, target, found in labels},
    }


def _label(number: int, label: PlannedLabel, cases: Sequence[Judged], seed: int | None) -> dict[str, Any]:
    known = [case for case in cases if case.targets[number] is not None]
    targets = np.array([case.targets[number] for case in known], dtype=np.int64)
    found = np.array([case.probabilities[number] for case in known], dtype=np.float64)
    answer: dict[str, Any] = {"cases": len(known), "unknown": len(cases) - len(known)}
    groups = np.array([case.group for case in known])
    reported = [1] if len(label.values) == BINARY else range(len(label.values))
    classes = {
        label.values[c]: _auc(targets == c, found[:, c] if len(known) else found, groups, seed) for c in reported
    }
    defined = [entry["auc"] for entry in classes.values() if entry["auc"] is not None]
    answer["macro_auc"] = float(np.mean(defined)) if defined else None
    answer |= _decisions(targets, found, len(label.values)) | calibration(targets, found)
    return {**answer, "classes": classes}


def _auc(
    positive: NDArray[np.bool_], scores: NDArray[np.float64], groups: NDArray[np.str_], seed: int | None
) -> dict[str, Any]:
    count = int(positive.sum())
    answer: dict[str, Any] = {"auc": None, "positive": count, "negative": len(positive) - count}
    if count in (0, len(positive)):
        which = "no case" if not len(positive) else "no case of this class" if not count else "no case of another class"
        return {**answer, "reason": which}
    from sklearn import metrics  # takes longer to import than a small model to answer

    answer["auc"] = float(metrics.roc_auc_score(positive, scores))
    if seed is not None:
        answer["interval"] = _interval(positive, scores, groups, seed)
    return answer


def _interval(
    positive: NDArray[np.bool_], scores: NDArray[np.float64], groups: NDArray[np.str_], seed: int
) -> list[float] | None:
    """Return the 95 % interval of the AUC over resampled groups; those with one class only are left out."""
    rng = np.random.default_rng(seed)
    members = [np.flatnonzero(groups == group) for group in dict.fromkeys(groups.tolist())]
    found = []
    for _ in range(RESAMPLES):
        rows = np.concatenate([members[i] for i in rng.integers(len(members), size=len(members))])
        if 0 < positive[rows].sum() < len(rows):
            found.append(_by_ranks(positive[rows], scores[rows]))
    return [float(edge) for edge in np.percentile(found, INTERVAL)] if found else None


def _by_ranks(positive: NDArray[np.bool_], scores: NDArray[np.float64]) -> float:
    """Return the AUC as Mann and Whitney have it, in a fraction of the time that the curve takes."""
    count = int(positive.sum())
    from scipy import stats

    ranks = stats.rankdata(scores)[positive].sum() - count * (count + 1) / 2
    return float(ranks / (count * (len(positive) - count)))


def _decisions(targets: NDArray[np.int64], found: NDArray[np.float64], classes: int) -> dict[str, Any]:
    if not len(targets):
        return {"accuracy": None, "balanced_accuracy": None, "confusion": [[0] * classes] * classes}
    from sklearn import metrics

    decided = found.argmax(axis=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # classes that are predicted, and in no case
        balanced = metrics.balanced_accuracy_score(targets, decided)
    return {
        "accuracy": float(metrics.accuracy_score(targets, decided)),
        "balanced_accuracy": float(balanced),
        # Row: the true class; column: the predicted one.
        "confusion": metrics.confusion_matrix(targets, decided, labels=range(classes)).tolist(),
    }


def calibration(targets: NDArray[np.int64], found: NDArray[np.float64]) -> dict[str, Any]:
    """Return Brier score and expected calibration error (Naeini et al., AAAI 2015) of probabilities (cases, classes).

    Brier's is the mean squared distance from the truth: of P(1) where there are two classes, else summed over classes.
    """
    if not len(targets):
        return {"brier": None, "ece": None}
    truth = np.eye(found.shape[1])[targets]
    squares = ((found - truth) ** 2)[:, 1:] if found.shape[1] == BINARY else (found - truth) ** 2
    sure, right = found.max(axis=1), found.argmax(axis=1) == targets
    gaps = [abs(float(right[part].mean() - sure[part].mean())) * part.sum() for part in bins(sure)]
    return {"brier": float(squares.sum(axis=1).mean()), "ece": float(sum(gaps) / len(targets))}


def bins(values: NDArray[np.float64]) -> list[NDArray[np.bool_]]:
    """Return which values lie in each of the equal parts of 0 to 1 that are not empty."""
    place = np.minimum((values * BINS).astype(np.int64), BINS - 1)
    return [place == number for number in range(BINS) if (place == number).any()]
