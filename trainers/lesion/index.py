"""Which images, lesion masks and cords belong together: a table, or what BIDS and nnU-Net folders say.

Columns: subject, session, contrast, image, lesion, cord, split; paths are relative to the table. `lesion` is a mask or
contours of Jim (.roi). `cord` is a mask or a centreline and may be empty, `session` and `split` too. A label map of
several labels may be named with the values that count: `labels.nii.gz#2` or `labels.nii.gz#1+2`. Every file must exist;
nothing is skipped.
"""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainers.core.errors import TrainingError
from trainers.core.files import atomic_path, read_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

COLUMNS = ("subject", "session", "contrast", "image", "lesion", "cord", "split")
REQUIRED = ("subject", "contrast", "image", "lesion")
MOST_LISTED = 20
SPLITS = ("", "train", "val", "test")
ENDINGS = (".nii.gz", ".nii")
CONTOURS = ".roi"
FIRST_CHANNEL = "_0000"  # of an image in a dataset of nnU-Net
FILES = {"image": ENDINGS, "lesion": (*ENDINGS, CONTOURS), "cord": (*ENDINGS, ".csv")}
BIDS_LESION = ("_label-lesion_seg", "_label-lesion_dseg", "_lesion-manual", "_lesion")
BIDS_CORD = ("_label-SC_seg", "_label-SC_mask", "_seg-manual", "_seg", "_label-centerline_label", "_centerline")


@dataclass(frozen=True, kw_only=True)
class Case:
    """One image with its lesion mask, and its cord where there is one.

    `lesion_values` and `cord_values` are the labels that count where a file holds several; None: every one above 0.
    """

    name: str
    subject: str
    image: Path
    lesion: Path | None = None
    cord: Path | None = None
    session: str = ""
    contrast: str = ""
    split: str = ""
    lesion_values: tuple[int, ...] | None = None
    cord_values: tuple[int, ...] | None = None


def read_index(path: Path) -> list[Case]:
    """Read a table, CSV or JSON (a list of objects); raise `TrainingError` with everything that is wrong in it."""
    rows = _rows(path)
    cases, problems = [], []
    for number, row in enumerate(rows, start=1):
        said = {key: str(value).strip() for key, value in row.items() if value is not None and str(value).strip()}
        problems += [f"row {number}: {problem}" for problem in _wrong_in(path, row, said)]
        if {"subject", "image", "lesion"} <= set(said):
            cases.append(_case(path.parent, said))
    problems += _contradictions(cases)
    if not rows:
        problems.append("no rows")
    if problems:
        listed = "\n".join(f"  {problem}" for problem in problems[:MOST_LISTED])
        more = f"\n  … and {len(problems) - MOST_LISTED} more" if len(problems) > MOST_LISTED else ""
        raise TrainingError(f"{path}: {len(problems)} problems\n{listed}{more}", hint=f"columns: {', '.join(COLUMNS)}")
    return cases


def _wrong_in(path: Path, row: Mapping[str, Any], said: Mapping[str, str]) -> list[str]:
    """Return what is wrong in a row: column and value."""
    problems = [f"unknown column {key!r}" for key in sorted(set(row) - set(COLUMNS))]
    problems += [f"no {key}" for key in REQUIRED if key not in said]
    for key in (key for key in FILES if key in said):
        name, _ = _split_values(said[key])
        if not (path.parent / name).is_file():
            problems.append(f"column {key}: {name}: no such file")
        elif not name.endswith(FILES[key]):
            problems.append(f"column {key}: {name}: not one of {', '.join(FILES[key])}")
    if "#" in said.get("image", ""):
        problems.append(f"column image: {said['image']}: only masks take values after #")
    if said.get("split", "") not in SPLITS:
        problems.append(f"column split: {said['split']!r} is none of train, val, test")
    return problems


def write_index(cases: Iterable[Case], path: Path) -> None:
    """Write a table, as JSON where its name says so and else as CSV, whole or not at all, with paths relative to it."""
    rows = [_row(case, path.parent) for case in cases]
    if path.suffix.lower() == ".json":
        text = json.dumps(rows, indent=2, ensure_ascii=False) + "\n"
    else:
        stream = io.StringIO()
        writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        text = stream.getvalue()
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _row(case: Case, folder: Path) -> dict[str, str]:
    row: dict[str, str] = dict.fromkeys(COLUMNS, "")
    row |= {key: getattr(case, key) for key in ("subject", "session", "contrast", "split")}
    for key in FILES:
        file, values = getattr(case, key), getattr(case, f"{key}_values", None)
        if file:
            row[key] = _relative(file, folder) + (f"#{'+'.join(str(value) for value in values)}" if values else "")
    return row


def _split_values(cell: str) -> tuple[str, tuple[int, ...] | None]:
    """Return the file of a cell, and the label values that count in it, None for all above 0.

    >>> _split_values("labels.nii.gz#1+2")
    ('labels.nii.gz', (1, 2))
    """
    found = re.fullmatch(r"(.+)#(\d+(?:\+\d+)*)", cell)
    return (found[1], tuple(int(value) for value in found[2].split("+"))) if found else (cell, None)


def from_nnunet(folder: Path, lesion: str = "lesion", cord: str = "sc") -> list[Case]:
    """Return the cases of a raw nnU-Net dataset: labels of those names in one map; no cord where it has no such label.

    The contrast is the case name's BIDS suffix, else the first channel's name.
    """
    document = read_json(folder / "dataset.json")
    labels, ending = document["labels"], document["file_ending"]
    if lesion not in labels:
        raise TrainingError(
            f"{folder / 'dataset.json'}: no label {lesion!r}: {', '.join(labels)}", hint="--set lesion_label=NAME"
        )
    if len(document["channel_names"]) != 1:
        raise TrainingError(
            f"{folder / 'dataset.json'}: {len(document['channel_names'])} channels; the recipe takes one image a case"
        )
    channel = next(iter(document["channel_names"].values()))
    cases = []
    for part, split in (("Tr", ""), ("Ts", "test")):
        for label in sorted((folder / f"labels{part}").glob(f"[!.]*{ending}")):
            name = label.name.removesuffix(ending)
            image = folder / f"images{part}" / f"{name}_0000{ending}"
            if not image.is_file():
                raise TrainingError(f"{image}: no such file, and {label} needs it")
            cases.append(
                Case(
                    name=name, subject=_entity(name, "sub") or name, session=_entity(name, "ses"),
                    contrast=contrast_of(name) or channel, image=image, lesion=label, split=split,
                    cord=label if cord in labels else None, lesion_values=_values(labels[lesion]),
                    cord_values=_values(labels[cord]) if cord in labels else None,
                )
            )  # fmt: skip
    if not cases:
        raise TrainingError(f"{folder / 'labelsTr'}: no label maps *{ending}")
    return cases


def from_bids(root: Path) -> list[Case]:
    """Return the images of a BIDS tree that have a lesion mask below derivatives/labels; images without are no cases.

    A mask that is all 0 says that there is no lesion; a mask that is missing says nothing.
    """
    cases = []
    labels = root / "derivatives" / "labels"
    for image in sorted(root.glob("sub-*/**/anat/*.nii*")):
        name = _stem(image)
        folder = labels / image.parent.relative_to(root)
        lesion = _first(folder, name, BIDS_LESION)
        if not lesion:
            continue
        cases.append(
            Case(
                name=name, subject=_entity(name, "sub"), session=_entity(name, "ses"), contrast=contrast_of(name),
                image=image, lesion=lesion, cord=_first(folder, name, BIDS_CORD),
            )
        )  # fmt: skip
    if not cases:
        raise TrainingError(
            f"{root}: no image with a lesion mask", hint=f"looked for as {labels}/sub-*/anat/*{BIDS_LESION[0]}"
        )
    return cases


def contrast_of(name: str) -> str:
    """Return the BIDS suffix of a case name, "" where it has none.

    >>> contrast_of("sub-01_acq-ax_T2w")
    'T2w'
    """
    last = name.rpartition("_")[2]
    return last if "_" in name and "-" not in last and re.search("[A-Za-z]", last) else ""


def _rows(path: Path) -> list[dict[str, Any]]:
    try:
        if path.suffix.lower() == ".json":
            rows = read_json(path)
            if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
                raise TrainingError(f"{path}: not a list of objects")
            return rows
        with path.open(newline="", encoding="utf-8-sig") as file:
            return [{str(key).strip(): value for key, value in row.items()} for row in csv.DictReader(file)]
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, csv.Error) as error:
        raise TrainingError(f"{path}: cannot be read: {error}", hint="a table in CSV or JSON") from error


def _case(root: Path, said: Mapping[str, str]) -> Case:
    image = root / said["image"]
    lesion, lesion_values = _split_values(said["lesion"])
    cord, cord_values = _split_values(said.get("cord", ""))
    return Case(
        name=_stem(image).removesuffix(FIRST_CHANNEL), image=image, lesion=root / lesion, lesion_values=lesion_values,
        cord=root / cord if cord else None, cord_values=cord_values, subject=said["subject"],
        session=said.get("session", ""), contrast=said.get("contrast", ""), split=said.get("split", ""),
    )  # fmt: skip


def _contradictions(cases: list[Case]) -> list[str]:
    """Return what cannot be true of all rows together: two cases of one name, a subject on both sides of a split."""
    found: list[str] = []
    names: set[str] = set()
    sides: dict[str, str] = {}
    for case in cases:
        if case.name in names:
            found.append(f"case {case.name}: listed twice")
        names.add(case.name)
        side = sides.setdefault(case.subject, case.split)
        if side != case.split:
            found.append(f"subject {case.subject}: in {side or 'no split'} and in {case.split or 'no split'}")
    return sorted(set(found))


def _values(label: Any) -> tuple[int, ...]:
    return tuple(int(value) for value in (label if isinstance(label, list) else [label]))


def _entity(name: str, key: str) -> str:
    found = re.search(rf"(?:^|_)({key}-[A-Za-z0-9]+)", name)
    return found[1] if found else ""


def _stem(path: Path) -> str:
    for ending in ENDINGS:
        if path.name.endswith(ending):
            return path.name.removesuffix(ending)
    return path.stem


def _first(folder: Path, name: str, endings: tuple[str, ...]) -> Path | None:
    candidates = (folder / f"{name}{middle}{ending}" for middle in endings for ending in ENDINGS)
    return next((path for path in candidates if path.is_file()), None)


def _relative(path: Path, folder: Path) -> str:
    import os

    return os.path.relpath(path.resolve(), folder.resolve())
