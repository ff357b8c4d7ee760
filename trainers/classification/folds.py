"""Splits of a task's cases: every fold with its share of each class, and cases of one group on one side."""

from __future__ import annotations

import warnings
from collections import Counter
from typing import TYPE_CHECKING

from sklearn.model_selection import GroupKFold, KFold, StratifiedGroupKFold, StratifiedKFold

from trainers.core.errors import TrainingError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trainers.classification.dataset import Case, Dataset

Split = dict[str, list[str]]  # "train" and "val" → names of cases
ALL = "all"
TRIES = 50  # shuffles, of which the one with the most even folds is taken


def make_splits(dataset: Dataset, folds: int, seed: int) -> list[Split]:
    """Split the cases; the same cases and seed give the same splits.

    Raises `TrainingError` where there are fewer groups than folds.
    """
    cases = dataset.cases
    groups = [case.group for case in cases]
    if len(set(groups)) < folds:
        what = "groups" if dataset.grouped else "cases"
        raise TrainingError(
            f"{dataset.folder}: {len(set(groups))} {what} cannot be split into {folds} folds",
            hint=f"--set num_folds={max(2, len(set(groups)))}",
        )
    strata = _strata(cases)
    candidates = [_split(groups, strata, folds, seed + more, grouped=dataset.grouped) for more in range(TRIES)]
    best = min(candidates, key=lambda parts: _unevenness(parts, cases))
    names = [case.name for case in cases]
    return [
        {"train": [name for name, at in zip(names, best, strict=True) if at != fold],
         "val": [name for name, at in zip(names, best, strict=True) if at == fold]}
        for fold in range(folds)
    ]  # fmt: skip


def _split(groups: list[str], strata: list[int], folds: int, seed: int, *, grouped: bool) -> list[int]:
    """Return for each case the fold that validates it."""
    stratified = max(Counter(strata).values()) >= folds
    with warnings.catch_warnings():
        # A class of fewer cases than folds is as evenly spread as can be, which is all that the warning says.
        warnings.simplefilter("ignore", UserWarning)
        if grouped:
            kind = StratifiedGroupKFold if stratified else GroupKFold
            parts = kind(folds, shuffle=True, random_state=seed).split(groups, strata, groups)
        else:
            kind = StratifiedKFold if stratified else KFold
            parts = kind(folds, shuffle=True, random_state=seed).split(groups, strata)
        at = [0] * len(groups)
        for fold, (_, validation) in enumerate(parts):
            for case in validation:
                at[case] = fold
    return at


def _unevenness(at: list[int], cases: Sequence[Case]) -> float:
    """Return how far the numbers of cases of each class differ between folds, over all labels."""
    counts = Counter(
        (fold, label, target) for fold, case in zip(at, cases, strict=True) for label, target in enumerate(case.targets)
    )
    sizes = Counter(at)
    return sum(count**2 for count in counts.values()) + sum(count**2 for count in sizes.values())


def _strata(cases: Sequence[Case]) -> list[int]:
    """Return a number for each combination of classes that occurs, similar combinations beside one another."""
    keys = [tuple(-1 if target is None else target for target in case.targets) for case in cases]
    order = {key: number for number, key in enumerate(sorted(set(keys)))}
    return [order[key] for key in keys]


def cases_of(dataset: Dataset, splits: Sequence[Split], fold: int | str) -> tuple[list[Case], list[Case]]:
    """Return the training and the validation cases of a fold; `all` trains on every case and validates on none."""
    if fold == ALL:
        return list(dataset.cases), []
    if int(fold) >= len(splits):
        raise TrainingError(f"fold {fold} does not exist: the split has {len(splits)} folds, 0 to {len(splits) - 1}")
    by_name = {case.name: case for case in dataset.cases}
    chosen = splits[int(fold)]
    if unknown := sorted({*chosen["train"], *chosen["val"]} - {*by_name}):
        raise TrainingError(f"splits_final.json: fold {fold} names a case that is not there: {unknown[0]}")
    return [by_name[name] for name in chosen["train"]], [by_name[name] for name in chosen["val"]]
