"""Judges how a dataset's cases are divided: folds of splits_final.json, and training against test."""

from __future__ import annotations

from typing import TYPE_CHECKING

from registry.dataset_findings import finding
from registry.errors import IntegrityError
from registry.splits import read_splits, subject_of

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
        folds = read_splits(dataset / FILE)
    except IntegrityError as error:
        yield finding("DATA018", FILE, error.message.removeprefix(f"{dataset / FILE}: "))
        return
    empty = [number for number, fold in enumerate(folds) if not all(fold.values())]
    if empty or not folds:
        yield finding("DATA018", FILE, f"fold {empty[0]} has an empty side" if empty else "no fold")
        return
    for number, (train, val) in enumerate(fold.values() for fold in folds):
        if unknown := {*train, *val} - {*cases}:
            yield finding("DATA019", FILE, f"fold {number} names cases that are not there: {_named(unknown)}")
        if forgotten := {*cases} - {*train, *val}:
            yield finding("DATA023", FILE, f"fold {number} leaves out {_named(forgotten)}")
        if both := {subject_of(case) for case in train} & {subject_of(case) for case in val}:
            yield finding("DATA020", FILE, f"fold {number}: {_named(both)} in training and validation")


def check_sides(training: Collection[str], test: Collection[str]) -> Iterator[Finding]:
    """Check that no subject, and no case, is used for training and for testing."""
    if both := {subject_of(case) for case in training} & {subject_of(case) for case in test}:
        yield finding("DATA022", "imagesTs", f"{_named(both)} in training and test")


def _named(names: set[str]) -> str:
    return ", ".join(sorted(names)[:MOST_NAMED]) + (" …" if len(names) > MOST_NAMED else "")
