"""`mreg data import --classify`: a table, or a BIDS tree with participants.tsv → a classification dataset."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from registry import orientation, output
from registry.case_files import write_case
from registry.classification_sources import CASE, IMAGE, MASK, SUBJECT, WHO, find
from registry.collection import ENDING
from registry.dataset import commit_of, digest_of, listed, making, require_files, require_free_number
from registry.errors import ConflictError, IntegrityError, MregError
from registry.files import alone, json_text, read_json, write_json
from registry.tables import UNKNOWN
from registry.volumes import WORKERS, read_volume

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from registry.classification_sources import Classified, Found
    from registry.collection import Source

TAKEN = (CASE, IMAGE, MASK, SUBJECT, WHO, "label", "group")  # columns and keys that have a meaning of their own
FEWEST, MOST = 2, 20  # classes of a label whose values are not listed: more of them are measurements
SHOWN = 5


def import_classification(
    source: Path,
    destination: Path,
    *,
    number: int,
    classify: Mapping[str, Sequence[str]],
    name: str = "",
    contrasts: tuple[str, ...] = (),
    masks: dict[str, str] | None = None,
    tests: tuple[str, ...] = (),
    code: str = "RPI",
    threshold: float = 0.5,
) -> Path:
    """Import the classified images of a table or a BIDS tree; return DESTINATION/TaskNNN_Name.

    `classify` maps each column that becomes a label to its classes in their order; none: those that occur. Values that
    are not known become null; the subject becomes the case's group. Images and masks get orientation `code`. Written
    under a temporary name and renamed at the end; a second call with the same inputs changes nothing.
    """
    if not orientation.is_valid(code):
        raise MregError(f"--orientation {code!r} is none of the 48 codes", hint='SCT\'s letters, for example "RPI"')
    if taken := [column for column in classify if column in TAKEN or column.startswith(f"{IMAGE}_")]:
        raise MregError(f"--classify {taken[0]}: that word has another meaning", hint="rename the column")
    found = find(source, list(classify), contrasts, masks or {}, tests)
    for line in found.left_out:
        output.warn(f"left out: {line}")
    labels = {column: _classes(found, column, tuple(classes)) for column, classes in classify.items()}
    found = _only_labelled(found, labels)
    sources = [case.source for case in found.cases]
    require_files(sources)
    document = _describe(found, labels, name, code)
    target = destination / f"Task{number:03d}_{document['name']}"
    digest = digest_of(sources, json_text([document, threshold]))
    document["source"] = {"kind": found.kind, **commit_of(found.table.path.parent), "sha256": digest}
    with alone(destination):
        if target.exists() or target.is_symlink():
            _require_same(target, digest, sources, len(found.channels))
            output.say(f"{target}: already imported")
            return target
        require_free_number(destination, number, "Task")
        _write(found, target, document, threshold)
    groups = len({case.group or case.source.case for case in found.cases})
    output.say(f"{target}: {document['numTraining']} training and {document['numTest']} test cases of {groups} groups")
    return target


def _classes(found: Found, column: str, wanted: tuple[str, ...]) -> tuple[str, ...]:
    """Return the classes of a column; raise `MregError` for values that are none of those that are wanted."""
    rows = {case.row.number: case.row for case in found.cases}.values()
    if wanted:
        strange = [
            f"{found.table.place(row, column)}: {row.values[column]!r} is none of {', '.join(wanted)}"
            for row in rows
            if row.values[column] not in (*wanted, *UNKNOWN)
        ]
        if strange:
            raise IntegrityError(listed(strange), hint="mend the table, or add the class; an empty cell is not known")
        return wanted
    texts = sorted({row.values[column] for row in rows} - {*UNKNOWN}, key=_order)
    if not FEWEST <= len(texts) <= MOST:
        said = ", ".join(texts[:SHOWN]) + (" …" if len(texts) > SHOWN else "")
        raise MregError(
            f"{found.table.path}: column {column} has {len(texts)} different values: {said or 'none'}",
            hint=f"a label has {FEWEST} classes or more; say which: --classify {column}=absent,present",
        )
    return tuple(texts)


def _order(text: str) -> tuple[bool, float, str]:
    """Sort numbers by their size, before words."""
    try:
        return (False, float(text), text)
    except ValueError:
        return (True, 0.0, text)


def _only_labelled(found: Found, labels: Mapping[str, Sequence[str]]) -> Found:
    """Leave out cases of which no class is known, with a warning each."""
    unknown = [case for case in found.cases if not any(case.row.values[label] in labels[label] for label in labels)]
    if len(unknown) == len(found.cases):
        raise MregError(f"{found.table.path}: no case has a class", hint="see --classify")
    for case in unknown:
        output.warn(f"left out: {case.source.case}: row {case.row.number} knows none of {', '.join(labels)}")
    return replace(found, cases=tuple(case for case in found.cases if case not in unknown))


def _describe(found: Found, labels: Mapping[str, Sequence[str]], name: str, code: str) -> dict[str, Any]:
    words = [re.sub(r"[^A-Za-z0-9]+", "", word) for word in labels]
    name = name or "".join(word[:1].upper() + word[1:] for word in words)
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", name):
        raise MregError(f"--name {name!r}: a dataset's name is letters, digits, - and _", hint="--name SpineContrast")
    if sorted(found.regions.values()) != list(range(1, len(found.regions) + 1)):
        raise MregError(
            f"--label: values {', '.join(map(str, found.regions.values()))}", hint="values of masks are 1, 2 and so on"
        )
    regions = {str(value): region for region, value in sorted(found.regions.items(), key=lambda item: item[1])}
    training = [case for case in found.cases if not case.source.test]
    tests = [case for case in found.cases if case.source.test]
    return {
        "name": name,
        **found.about,
        "tensorImageSize": "3D",
        "modality": {str(number): channel for number, channel in enumerate(found.channels)},
        "classification_labels": [
            {"name": label, "ordinal": False, "values": {str(number): text for number, text in enumerate(classes)}}
            for label, classes in labels.items()
        ],
        **({"labels": {"0": "background", **regions}} if regions else {}),
        "image_orientation": code,
        "numTraining": len(training),
        "numTest": len(tests),
        "training": [_entry(case, labels, "Tr") for case in training],
        "test": [_entry(case, labels, "Ts") for case in tests],
    }


def _entry(case: Classified, labels: Mapping[str, Sequence[str]], part: str) -> dict[str, Any]:
    file = f"{case.source.case}{ENDING}"
    found = {label: case.row.values[label] for label in labels}
    return {
        "image": f"./images{part}/{file}",
        **({"label": f"./labels{part}/{file}"} if case.source.masks else {}),
        **{label: labels[label].index(text) if text in labels[label] else None for label, text in found.items()},
        **({"group": case.group} if case.group else {}),
    }


def _write(found: Found, target: Path, document: dict[str, Any], threshold: float) -> None:
    """Write the dataset, whole or not at all."""
    with making(target) as folder:
        for part in ("Tr", "Ts") if document["numTest"] else ("Tr",):
            (folder / f"images{part}").mkdir(parents=True)
            if found.regions:
                (folder / f"labels{part}").mkdir()
        _write_cases(found, folder, document["image_orientation"], threshold)
        write_json(folder / "dataset.json", document)


def _write_cases(found: Found, folder: Path, code: str, threshold: float) -> None:
    """Write every case; report all that cannot be used in one error."""
    values = {0, *found.regions.values()}
    total = len(found.cases)
    problems: list[str] = []

    def write(case: Classified) -> list[str]:
        source = case.source
        try:
            doubts = write_case(source, folder, code, threshold, values, len(found.channels))
        except IntegrityError as error:
            problems.append(error.message)
            return []
        mask = folder / f"labels{'Ts' if source.test else 'Tr'}" / f"{source.case}{ENDING}"
        if source.masks and not read_volume(mask).array.any():
            problems.append(f"{source.masks[0][0]}: the mask is empty: there is no region of interest")
        return doubts

    with output.count_progress(f"import {total} cases", total) as advance, ThreadPoolExecutor(WORKERS) as pool:
        for doubts in pool.map(write, found.cases):
            for doubt in doubts:
                output.warn(doubt)
            advance()
    if problems:
        raise IntegrityError(listed(sorted(problems)), hint="mend these files or take the cases out, then import again")


def _require_same(target: Path, digest: str, sources: Sequence[Source], channels: int) -> None:
    """Raise `ConflictError` unless the dataset was made from the same source and has all its files."""
    there = read_json(target / "dataset.json") if (target / "dataset.json").is_file() else {}
    made_from = there.get("source") if isinstance(there, dict) else None
    if not isinstance(made_from, dict) or made_from.get("sha256") != digest:
        raise ConflictError(
            f"{target}: exists with other content", hint="choose another --dataset-id or --name, or move it away"
        )
    names = []
    for source in sources:
        part = "Ts" if source.test else "Tr"
        names += [f"images{part}/{source.case}_{number:04d}{ENDING}" for number in range(channels)]
        names += [f"labels{part}/{source.case}{ENDING}"] if source.masks else []
    if lost := [name for name in names if not (target / name).is_file()]:
        raise ConflictError(
            f"{target}: was imported from this source, but {lost[0]} is gone", hint="move it away, then import again"
        )
