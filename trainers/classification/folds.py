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
    stratified = max(Counter(strata).values()) >= folds
    with warnings.catch_warnings():
        # A class of fewer cases than folds is as evenly spread as can be, which is all that the warning says.
        warnings.simplefilter("ignore", UserWarning)
        if dataset.grouped and stratified:
            parts = StratifiedGroupKFold(folds, shuffle=True, random_state=seed).split(groups, strata, groups)
        elif dataset.grouped:
            parts = GroupKFold(folds).split(groups, strata, groups)
        elif stratified:
            parts = StratifiedKFold(folds, shuffle=True, random_state=seed).split(groups, strata)
        else:
            parts = KFold(folds, shuffle=True, random_state=seed).split(groups)
        names = [case.name for case in cases]
        return [{"train": [names[i] for i in train], "val": [names[i] for i in val]} for train, val in parts]


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
