"""Where classified images come from: a table with a row a case, or a BIDS tree with participants.tsv."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from registry.bids import about_tree, find_case, find_images, find_masks, has_tail, listing, subject_of
from registry.collection import ENDINGS, Source
from registry.dataset import listed
from registry.errors import IntegrityError, MregError, NotFoundError
from registry.tables import ENDINGS as TABLES
from registry.tables import read_table

if TYPE_CHECKING:
    from pathlib import Path

    from registry.tables import Row, Table

CASE, IMAGE, MASK, SUBJECT = "case", "image", "mask", "subject"  # columns of a table that are no labels
PARTICIPANTS, WHO = "participants.tsv", "participant_id"
MODALITY = "MRI"
REGION = "region of interest"


@dataclass(frozen=True, kw_only=True)
class Classified:
    """A case, and the row of the table that says its classes."""

    source: Source
    row: Row
    group: str = ""  # whom it shows; "" where that is not said


@dataclass(frozen=True, kw_only=True)
class Found:
    """All cases of a source."""

    kind: str  # "table" or "bids"
    table: Table
    cases: tuple[Classified, ...]
    channels: tuple[str, ...]
    regions: dict[str, int]  # name of a mask's value → value; empty where there are no masks
    about: dict[str, str] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()  # why something was not taken, a line each


def find(
    source: Path, columns: list[str], contrasts: tuple[str, ...], masks: dict[str, str], tests: tuple[str, ...]
) -> Found:
    """Find the cases of a table (.csv, .tsv) or a BIDS tree; `columns` are those that become labels.

    `contrasts` are tails of images in a BIDS tree, names of the channels of a table. `masks` maps a region to the tail
    of its mask in a BIDS tree, to its value in the masks of a table. `tests` are subjects that are kept for testing.
    """
    if source.is_dir():
        return _in_tree(source, columns, contrasts, masks, tests)
    if not source.name.endswith(TABLES):
        raise NotFoundError(
            f"{source}: neither a table ({' or '.join(TABLES)}) nor a folder", hint="name a table, or a BIDS tree"
        )
    return _in_table(source, columns, contrasts, masks, tests)


def _in_table(
    path: Path, columns: list[str], contrasts: tuple[str, ...], masks: dict[str, str], tests: tuple[str, ...]
) -> Found:
    table = read_table(path)
    images = [column for column in table.columns if column == IMAGE or column.startswith(f"{IMAGE}_")]
    table.require([CASE, *(images or [IMAGE]), *columns, *([MASK] if masks else []), *([SUBJECT] if tests else [])])
    values = {name: _value(name, text) for name, text in masks.items()}
    with_masks = MASK in table.columns
    problems: list[str] = []
    cases = []
    for row in table.rows:
        name = row.values[CASE]
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
            problems.append(f"{table.place(row, CASE)}: {name!r} is no name of a file: letters, digits, . _ and -")
        files = {column: _file(table, row, column, problems) for column in (*images, *([MASK] if with_masks else []))}
        subject = row.values.get(SUBJECT, "")
        if SUBJECT in table.columns and not subject:
            problems.append(f"{table.place(row, SUBJECT)}: is empty")
        mask = ((files[MASK], None if values else 1),) if with_masks else ()
        source = Source(
            case=name, images=tuple(files[column] for column in images), masks=mask, test=_is_test(subject, tests)
        )
        cases.append(Classified(source=source, row=row, group=subject))
    names = [case.source.case for case in cases]
    firsts = {name: cases[names.index(name)].row.number for name in names}
    problems += [
        f"{table.place(case.row, CASE)}: {case.source.case!r} is there already, in row {firsts[case.source.case]}"
        for case in cases
        if case.row.number > firsts[case.source.case]
    ]
    if problems:
        raise IntegrityError(listed(problems), hint="mend these rows, then import again")
    _require_tests(path, tests, {case.group for case in cases})
    regions = (values or {REGION: 1}) if with_masks else {}
    return Found(
        kind="table", table=table, cases=tuple(cases), channels=_channels(path, images, contrasts), regions=regions
    )


def _file(table: Table, row: Row, column: str, problems: list[str]) -> Path:
    """Return the file that a cell names, from the table's folder on."""
    text = row.values[column]
    path = table.path.parent / text
    if not text:
        problems.append(f"{table.place(row, column)}: is empty")
    elif not text.endswith(ENDINGS):
        problems.append(f"{table.place(row, column)}: {text}: not {' or '.join(ENDINGS)}")
    elif not path.is_file() and not path.is_symlink():  # git-annex' links that lead nowhere have an error of their own
        problems.append(f"{table.place(row, column)}: {text}: no such file")
    return path


def _channels(path: Path, images: list[str], contrasts: tuple[str, ...]) -> tuple[str, ...]:
    if contrasts and len(contrasts) != len(images):
        raise MregError(
            f"{path}: {len(contrasts)} --contrast for {len(images)} columns of images: {', '.join(images)}",
            hint="name each of them, in this order, or none",
        )
    return contrasts or tuple(column.removeprefix(f"{IMAGE}_") if column != IMAGE else MODALITY for column in images)


def _value(name: str, text: str) -> int:
    if not re.fullmatch(r"[1-9]\d{0,2}", text):
        raise MregError(
            f"--label {name}={text}: not a value of masks", hint=f"of a table say the value: --label {name}=1"
        )
    return int(text)


def _in_tree(
    root: Path, columns: list[str], contrasts: tuple[str, ...], masks: dict[str, str], tests: tuple[str, ...]
) -> Found:
    table = read_table(root / PARTICIPANTS)
    table.require([WHO, *columns])
    rows: dict[str, Row] = {}
    for row in table.rows:
        if rows.setdefault(_subject(row.values[WHO]), row) is not row:
            raise IntegrityError(f"{table.place(row, WHO)}: {row.values[WHO]} is there twice", hint="remove one row")
    images, drawn = find_images(root), find_masks(root)
    if not contrasts:
        ends = {name.rpartition("_")[2] for name in images}
        if len(ends) != 1:
            raise MregError(
                f"{root}: images of several contrasts{listing(images, drawn)}", hint="choose: --contrast T2w"
            )
        contrasts = tuple(ends)
    cases, left_out = [], []
    for name in sorted(name for name in images if has_tail(name, contrasts[0])):
        found, missing = find_case(name, contrasts, tuple(masks.values()), images, drawn)
        subject = subject_of(root, images[name])
        if found is None:
            left_out.append(f"{name}: no {', '.join(missing)}")
        elif subject not in rows:
            left_out.append(f"{name}: {PARTICIPANTS} has no row of {subject}")
        else:
            source = Source(case=found.case, images=found.images, masks=found.masks, test=_is_test(subject, tests))
            cases.append(Classified(source=source, row=rows[subject], group=subject))
    if not cases:
        raise NotFoundError(
            f"{root}: no image of a participant has all of these contrasts and masks{listing(images, drawn)}",
            hint="see --contrast and --label",
        )
    _require_tests(root, tests, {case.group for case in cases})
    return Found(
        kind="bids",
        table=table,
        cases=tuple(cases),
        channels=contrasts,
        regions={name: value for value, name in enumerate(masks, start=1)},
        about=about_tree(root),
        left_out=tuple(left_out),
    )


def _subject(text: str) -> str:
    return text if text.startswith("sub-") else f"sub-{text}"


def _is_test(subject: str, tests: tuple[str, ...]) -> bool:
    return _subject(subject) in {_subject(test) for test in tests}


def _require_tests(source: Path, tests: tuple[str, ...], subjects: set[str]) -> None:
    known = {_subject(subject) for subject in subjects}
    if absent := [test for test in tests if _subject(test) not in known]:
        raise NotFoundError(
            f"{source}: no image of test subject {', '.join(absent)}", hint=f"there are: {', '.join(sorted(subjects))}"
        )
    if tests and known == {_subject(test) for test in tests}:
        raise MregError(f"{source}: every subject is a test subject", hint="leave some for the training")
