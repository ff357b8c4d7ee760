"""What is wrong with a classification dataset: whole images in TaskNNN_Name, one class or more a case."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from registry import lines, orientation
from registry.dataset_findings import finding
from registry.dataset_volumes import Expected, judge_all, look_at_all
from registry.findings import Finding, Level
from registry.schemas import validate

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from registry.dataset_volumes import Seen

FILE = "dataset.json"
FEWEST_CASES = 5  # of a class: one a fold
ENDING = ".nii.gz"
MOST_NAMED = 5


class Kind(NamedTuple):
    """One kind of finding that segmentation datasets do not have."""

    level: Level
    hint: str
    summary: str


KINDS = {
    "CLASS001": Kind("error", "rename it, for example Task520_Lesion", "the folder is not called TaskNNN_Name"),
    "CLASS002": Kind("error", "rename one", "two labels have one name"),
    "CLASS003": Kind("error", "null says that a value is not known", "a case without a value that its label has"),
    "CLASS004": Kind("error", "remove one of the entries", "a case is listed twice"),
    "CLASS005": Kind("error", "add it to training, or remove the file", "a file of no case that is listed"),
    "CLASS006": Kind("error", "give all cases a mask and dataset.json labels, or none", "masks for some cases only"),
    "CLASS007": Kind("error", "draw the region of interest, or remove the case", "an empty mask"),
    "CLASS008": Kind("warning", "images are turned to one orientation before training", "several orientations"),
    "CLASS009": Kind("warning", "its AUC is undefined where a fold has none", "few cases of a class"),
}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A case as dataset.json lists it."""

    number: int  # its place in training
    case: str
    values: dict[str, Any]
    mask: bool  # whether it names one


def is_classification(document: dict[str, Any]) -> bool:
    """Whether a dataset.json is that of a classification dataset."""
    return "classification_labels" in document


def findings(dataset: Path, document: dict[str, Any], *, progress: bool = False) -> Iterator[Finding]:
    """Yield everything that is wrong, file by file; each image is read once, a few at a time."""
    text = (dataset / FILE).read_text(encoding="utf-8", errors="replace")
    yield from validate("classification_dataset", document, FILE, text)
    folder = dataset.resolve().name
    if not re.fullmatch(r"Task\d{3}_.+", folder):
        yield _found("CLASS001", "", f"{folder} is not TaskNNN_Name")
    entries = _entries(document)
    yield from _labels(document, entries, text)
    yield from _counts(document, text)
    yield from _files(dataset, document, entries)
    yield from _masks(dataset, document, entries)
    yield from _volumes(dataset, document, entries, progress=progress)


def _found(code: str, path: str, message: str, hint: str = "", line: int | None = None) -> Finding:
    kind = KINDS[code]
    return Finding(code=code, level=kind.level, message=message, path=path, line=line, hint=hint or kind.hint)


def _entries(document: dict[str, Any]) -> list[Entry]:
    """Return the training cases that can be read at all; the schema tells of the others."""
    training = document.get("training")
    found = []
    for number, item in enumerate(training if isinstance(training, list) else ()):
        if isinstance(item, dict) and isinstance(item.get("image"), str):
            case = item["image"].rpartition("/")[2].removesuffix(ENDING)
            found.append(Entry(number=number, case=case, values=item, mask="label" in item))
    return found


def label_classes(document: dict[str, Any]) -> dict[str, int]:
    """Return each label's name and its number of classes; what the schema refuses is left out."""
    labels = document.get("classification_labels")
    return {
        str(label["name"]): len(label["values"])
        for label in (labels if isinstance(labels, list) else ())
        if isinstance(label, dict) and isinstance(label.get("name"), str) and isinstance(label.get("values"), dict)
    }


def _labels(document: dict[str, Any], entries: list[Entry], text: str) -> Iterator[Finding]:
    """Check that every case has a value for every label, and every label cases of each class."""
    labels = document.get("classification_labels")
    named = [label.get("name") for label in labels if isinstance(label, dict)] if isinstance(labels, list) else []
    line = lines.of_key(text, "classification_labels")
    for name in sorted({str(name) for name in named if named.count(name) > 1}):
        yield _found("CLASS002", FILE, f"label {name!r} is there twice", line=line)
    for name, classes in label_classes(document).items():
        counts: Counter[int] = Counter()
        for entry in entries:
            place = lines.of_key(text, "training", entry.number, name)
            value = entry.values.get(name)
            if name not in entry.values:
                yield _found("CLASS003", FILE, f"case {entry.case} has no value for {name}", line=place)
            elif type(value) is int and not 0 <= value < classes:
                message = f"case {entry.case}: {name} = {value}, and its values are 0 to {classes - 1}"
                yield _found("CLASS003", FILE, message, line=place)
            elif type(value) is int:
                counts[value] += 1
        for value in range(classes):
            if counts[value] < FEWEST_CASES and entries:
                message = f"{name} = {value}: {counts[value]} of {len(entries)} cases"
                yield _found("CLASS009", FILE, message, line=line)


def _counts(document: dict[str, Any], text: str) -> Iterator[Finding]:
    for key, listed in (("numTraining", "training"), ("numTest", "test")):
        cases, said = document.get(listed), document.get(key)
        if isinstance(cases, list) and type(said) is int and said != len(cases) and (cases or listed == "training"):
            message = f"{key} = {said}, but {listed} lists {len(cases)} cases"
            level: Level = "error" if listed == "training" else "warning"
            hint = f'"{key}": {len(cases)}'
            yield finding("DATA009", FILE, message, hint, level=level, line=lines.of_key(text, key))


def _channels(document: dict[str, Any]) -> int:
    modality = document.get("modality")
    return len(modality) if isinstance(modality, dict) else 0


def _files(dataset: Path, document: dict[str, Any], entries: list[Entry]) -> Iterator[Finding]:
    """Hold the images against the list of cases."""
    if not (dataset / "imagesTr").is_dir():
        yield finding("DATA001", "imagesTr", "no folder imagesTr", hint="images lie in imagesTr/CASE_0000.nii.gz")
        return
    for case, count in Counter(entry.case for entry in entries).items():
        if count > 1:
            yield _found("CLASS004", FILE, f"case {case} is listed {count} times")
    cases, channels = {entry.case for entry in entries}, _channels(document)
    for case in sorted(cases):
        for channel in range(channels):
            path = f"imagesTr/{case}_{channel:04d}{ENDING}"
            if not (dataset / path).is_file():
                yield finding("DATA004", path, f"channel {channel} of case {case} is missing")
    for file in sorted((dataset / "imagesTr").glob("[!.]*")):
        name = f"imagesTr/{file.name}"
        numbered = re.fullmatch(rf"(.+)_(\d{{4}}){re.escape(ENDING)}", file.name)
        if not numbered:
            yield finding("DATA002", name, f"not named CASE_0000{ENDING}")
        elif numbered[1] not in cases:
            yield _found("CLASS005", name, f"case {numbered[1]} is not listed in training")
        elif channels and int(numbered[2]) >= channels:
            yield finding("DATA005", name, f"channel {int(numbered[2])} is not in dataset.json's modality")


def _masks(dataset: Path, document: dict[str, Any], entries: list[Entry]) -> Iterator[Finding]:
    """Check that all cases have a mask, or none: in the list, as a file, and as labels that say what values mean."""
    files = {path.name.removesuffix(ENDING): path.name for path in sorted((dataset / "labelsTr").glob("[!.]*"))}
    cases = {entry.case for entry in entries}
    for case in sorted({*files} - cases):
        yield _found("CLASS005", f"labelsTr/{files[case]}", f"case {case} is not listed in training")
    wanted = "labels" in document or any(entry.mask for entry in entries) or bool(files)
    if not wanted:
        return
    without = sorted(entry.case for entry in entries if not entry.mask)
    if without:
        yield _found("CLASS006", FILE, f"{len(without)} of {len(entries)} cases name no mask: {_few(without)}")
    for case in sorted(cases - {*files}):
        yield _found("CLASS006", f"labelsTr/{case}{ENDING}", f"case {case} has no mask, and others have one")
    if "labels" not in document:
        yield _found("CLASS006", FILE, "there are masks, and no labels that say what their values mean")


def _few(names: list[str]) -> str:
    return ", ".join(names[:MOST_NAMED]) + (f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else "")


def _volumes(dataset: Path, document: dict[str, Any], entries: list[Entry], *, progress: bool) -> Iterator[Finding]:
    """Read every image and mask once; compare those of a case with each other."""
    code, labels = document.get("image_orientation"), document.get("labels")
    values = {int(key) for key in labels if key.isdecimal()} if isinstance(labels, dict) else None
    expected = Expected(orientation=None, values=frozenset(values) if values else None)
    names: list[tuple[str, str, bool]] = []
    for case in dict.fromkeys(entry.case for entry in entries):
        names += [(case, f"imagesTr/{case}_{channel:04d}{ENDING}", False) for channel in range(_channels(document))]
        names += [(case, f"labelsTr/{case}{ENDING}", True)]
    files = [(case, dataset / name, name, mask) for case, name, mask in names if (dataset / name).is_file()]
    by_case = look_at_all(files, expected, progress=progress)
    yield from map(_of_mask, judge_all(by_case))
    yield from _orientations([volume for volumes in by_case.values() for volume in volumes], code)


def _of_mask(found: Finding) -> Finding:
    """Make an empty mask an error: there would be nothing left of its image."""
    if found.code != "DATA015":
        return found
    kind = KINDS["CLASS007"]
    return replace(found, code="CLASS007", level=kind.level, message="the mask is empty", hint=kind.hint)


def _orientations(volumes: list[Seen], code: Any) -> Iterator[Finding]:
    counts = Counter(orientation.of_affine(volume.affine) for volume in volumes if volume.affine is not None)
    listed = ", ".join(f"{orientation.describe(found)}: {count}" for found, count in counts.most_common())
    said = orientation.is_valid(code)
    if len(counts) > 1:
        yield _found("CLASS008", FILE, f"the files have several orientations: {listed}")
    elif said and counts and code not in counts:
        yield finding("DATA013", FILE, f"all files are {listed}, and image_orientation is {code}", level="warning")
