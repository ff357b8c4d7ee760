"""Judges how a dataset's cases are divided: folds of splits_final.json, and training against test."""

from __future__ import annotations

from typing import TYPE_CHECKING

from registry.dataset_findings import finding
from registry.errors import IntegrityError
from registry.files import read_json
from registry.splits import subject_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

    from registry.findings import Finding

FILE = "splits_final.json"
MOST_NAMED = 5


def check_splits(dataset: Path, cases: Collection[str]) -> Iterator[Finding]:
    """Check the folds against the training cases, and that no subject stands on both sides."""
    if not (dataset / FILE).is_file():
        return
    try:
        folds = _read(dataset / FILE)
    except (IntegrityError, TypeError, KeyError, ValueError) as error:
        yield finding("DATA018", FILE, f"not a list of train and val: {error}")
        return
    for number, (train, val) in enumerate(folds):
        if unknown := {*train, *val} - {*cases}:
            yield finding("DATA019", FILE, f"fold {number} names cases that are not there: {_named(unknown)}")
        if forgotten := {*cases} - {*train, *val}:
            yield finding("DATA023", FILE, f"fold {number} leaves out {_named(forgotten)}")
        if both := {subject_of(case) for case in train} & {subject_of(case) for case in val}:
            yield finding("DATA020", FILE, f"fold {number}: {_named(both)} in training and validation")


def _read(path: Path) -> list[tuple[list[str], list[str]]]:
    """Return train and val of each fold; raise for anything else."""
    folds = [(list(split["train"]), list(split["val"])) for split in read_json(path)]
    if not folds:
        raise ValueError("no fold")
    for number, sides in enumerate(folds):
        if not all(isinstance(case, str) for side in sides for case in side):
            raise TypeError(f"fold {number} names something else than cases")
        if not all(sides):
            raise ValueError(f"fold {number} has an empty side")
    return folds


def check_sides(training: Collection[str], test: Collection[str]) -> Iterator[Finding]:
    """Check that no subject, and no case, is used for training and for testing."""
    if both := {subject_of(case) for case in training} & {subject_of(case) for case in test}:
        yield finding("DATA022", "imagesTs", f"{_named(both)} in training and test")


def _named(names: set[str]) -> str:
    return ", ".join(sorted(names)[:MOST_NAMED]) + (" …" if len(names) > MOST_NAMED else "")
