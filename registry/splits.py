"""Cross-validation splits by subject: slabs and sessions of one person never stand on both sides."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import Literal

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
