"""Cross-validation splits by subject: slabs and sessions of one person never stand on both sides."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import TYPE_CHECKING, Any, Literal

from registry.errors import IntegrityError
from registry.files import read_json

if TYPE_CHECKING:
    from pathlib import Path

FOLDS = 5  # as nnU-Net's own split
LEAVE_ONE_OUT = "leave-one-out"
Folds = int | Literal["leave-one-out"] | None  # None: five, or one a subject where there are fewer


def subject_of(case: str) -> str:
    """Return the subject of a case name: `sub-…` of a BIDS name, else the whole name.

    >>> subject_of("sub-amu01_ses-2_T2w")
    'sub-amu01'
    """
    found = re.match(r"sub-[A-Za-z0-9]+", case)
    return found.group() if found else case


def read_splits(path: Path) -> list[dict[str, list[str]]]:
    """Read a splits_final.json: of each fold the cases to train on and to validate on; raise for anything else."""
    document = read_json(path)
    folds: list[Any] = document if isinstance(document, list) else [None]
    for number, fold in enumerate(folds):
        sides = [fold.get(side) for side in ("train", "val")] if isinstance(fold, dict) else [None]
        if not all(isinstance(side, list) and all(isinstance(case, str) for case in side) for side in sides):
            raise IntegrityError(f"{path}: fold {number} is not two lists of cases, train and val")
    return [{side: fold[side] for side in ("train", "val")} for fold in folds]


def subject_splits(cases: list[str], folds: Folds = None) -> list[dict[str, list[str]]]:
    """Return nnU-Net's splits_final.json: five folds, or one a subject where there are fewer or it is asked for.

    Cases of a single subject are split case by case. The same cases always give the same folds.
    """
    by_subject: dict[str, list[str]] = defaultdict(list)
    for case in sorted(cases):
        by_subject[subject_of(case)].append(case)
    groups = list(by_subject.values())
    if len(groups) == 1:
        groups = [[case] for case in groups[0]]
    count = len(groups) if isinstance(folds, str) else min(folds or FOLDS, len(groups))
    if count < 2:  # noqa: PLR2004 - one group leaves nothing to validate on but itself
        return [{"train": sorted(cases), "val": sorted(cases)}]
    held_out = [sorted(case for group in groups[fold::count] for case in group) for fold in range(count)]
    return [{"train": sorted(set(cases) - set(val)), "val": val} for val in held_out]
