"""`mreg data verify`: everything that is wrong with a raw dataset's images, labels and splits, in one go."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from registry import classification_dataset, lines, orientation, pretraining_collection, scrub
from registry.collection import ENDING, ENDINGS
from registry.dataset_findings import finding
from registry.dataset_splits import check_sides, check_splits
from registry.dataset_volumes import Expected, judge_all, look_at_all
from registry.errors import IntegrityError, MregError
from registry.files import read_json
from registry.findings import Report
from registry.labels import check_labels, regions
from registry.schemas import validate
from trainers.pretraining.collection import FILE as PRETRAIN_DATA

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from registry.dataset_volumes import Seen
    from registry.findings import Finding, Level

COUNTS = {"Tr": "numTraining", "Ts": "numTest"}


@dataclass(frozen=True, kw_only=True)
class Part:
    """The files for training or for testing, as their names tell."""

    name: str  # "Tr" or "Ts"
    ending: str
    images: dict[str, dict[int, Path]] = field(default_factory=dict)  # case → channel → file
    labels: dict[str, Path] = field(default_factory=dict)
    strangers: tuple[Path, ...] = ()  # files that are neither

    @property
    def cases(self) -> list[str]:
        """Return every case that has an image or a label map."""
        return sorted({*self.images, *self.labels})


def verify(dataset: Path, *, progress: bool = False) -> Report:
    """Return all findings on a raw dataset, nnU-Net's or one for classification; each image is read once.

    `progress` shows a bar. Raises `MregError` only where there is no folder, or no JSON object in its dataset.json.
    """
    if not dataset.is_dir():
        raise MregError(f"{dataset}: no such folder", hint="name a folder DatasetNNN_Name")
    if (dataset / PRETRAIN_DATA).is_file() and not (dataset / "dataset.json").is_file():
        unlabelled = pretraining_collection.findings(dataset, progress=progress)
        return Report(target=str(dataset), findings=tuple(dict.fromkeys(unlabelled)))
    document = read_json(dataset / "dataset.json")
    if not isinstance(document, dict):
        raise IntegrityError(f"{dataset / 'dataset.json'}: not a JSON object")
    if classification_dataset.is_classification(document):
        found = [*classification_dataset.findings(dataset, document, progress=progress), *_absolute_paths(dataset)]
        return Report(target=str(dataset), findings=tuple(dict.fromkeys(found)))
    text = (dataset / "dataset.json").read_text(encoding="utf-8", errors="replace")
    findings = validate("dataset", document, "dataset.json", text)
    if isinstance(document.get("labels"), dict) and document["labels"]:
        findings += check_labels(document, "dataset.json", text)
    parts = [_list(dataset, name, _ending(document)) for name in COUNTS]
    findings += _document(dataset, document)
    for part in parts:
        findings += _files(dataset, part, document)
    findings += _volumes(dataset, parts, document, progress=progress)
    findings += check_sides(parts[0].images, parts[1].images)
    findings += check_splits(dataset, parts[0].images)
    return Report(target=str(dataset), findings=tuple(dict.fromkeys(findings)))


def _ending(document: dict[str, Any]) -> str:
    ending = document.get("file_ending")
    return ending if isinstance(ending, str) and ending else ENDING


def _list(dataset: Path, name: str, ending: str) -> Part:
    """Sort the files of a part by their names."""
    images: dict[str, dict[int, Path]] = defaultdict(dict)
    labels: dict[str, Path] = {}
    strangers = []
    for kind in ("images", "labels"):
        folder = dataset / f"{kind}{name}"
        for path in sorted(folder.glob("[!.]*")) if folder.is_dir() else ():
            numbered = re.fullmatch(rf"(.+)_(\d{{4}}){re.escape(ending)}", path.name)
            if kind == "images" and numbered:
                images[numbered[1]][int(numbered[2])] = path
            elif kind == "labels" and path.name.endswith(ending):
                labels[path.name.removesuffix(ending)] = path
            else:
                strangers.append(path)
    return Part(name=name, ending=ending, images=dict(images), labels=labels, strangers=tuple(strangers))


def _document(dataset: Path, document: dict[str, Any]) -> Iterator[Finding]:
    """Check what the JSON files say beside what the schema and the labels' rules ask, and the folder's name."""
    folder = dataset.resolve().name
    if not re.fullmatch(r"Dataset\d{3}_.+", folder):
        yield finding("DATA028", "", f"{folder} is not DatasetNNN_Name, the only name by which nnU-Net finds it")
    if document.get("dataset"):
        line = _line(dataset, "dataset")
        yield finding(
            "DATA027", "dataset.json", "lists its files under the key dataset, which are not opened", line=line
        )
    yield from _absolute_paths(dataset)


def _absolute_paths(dataset: Path) -> Iterator[Finding]:
    for path in sorted(dataset.glob("*.json")):
        rows = path.read_text(encoding="utf-8", errors="replace").splitlines()
        bad = [number for number, row in enumerate(rows, start=1) if scrub.paths(row) != row]
        if bad:
            where = f"line {bad[0]}" + (f" and {len(bad) - 1} more" if len(bad) > 1 else "")
            yield finding("DATA021", path.name, f"holds absolute paths: {where}", line=bad[0])


def _files(dataset: Path, part: Part, document: dict[str, Any]) -> Iterator[Finding]:
    """Check which files there are, without opening them."""
    if part.name == "Tr" and not part.images:
        there = (dataset / "imagesTr").is_dir()
        message = f"no image CASE_0000{part.ending} in imagesTr" if there else "no folder imagesTr"
        yield finding("DATA001", "imagesTr", message)
    for path in part.strangers:
        wanted = f"CASE_0000{part.ending}" if path.parent.name.startswith("images") else f"CASE{part.ending}"
        yield finding("DATA002", _inside(dataset, path), f"not named {wanted}")
    channels = document.get("channel_names")
    for case, files in part.images.items():
        if isinstance(channels, dict) and channels:
            yield from _channels(dataset, part, case, files, len(channels))
        if case not in part.labels and (part.name == "Tr" or part.labels):
            yield finding("DATA006", f"labels{part.name}/{case}{part.ending}", f"case {case} has no label map")
    for case in sorted({*part.labels} - {*part.images}):
        yield finding("DATA007", _inside(dataset, part.labels[case]), "label map without an image")
    yield from _count(dataset, part, document)
    if part.images and part.ending not in ENDINGS:
        line = _line(dataset, "file_ending")
        yield finding("DATA003", "dataset.json", f"{part.ending} images are not opened", line=line)


def _channels(dataset: Path, part: Part, case: str, files: dict[int, Path], count: int) -> Iterator[Finding]:
    for channel in sorted({*range(count)} - {*files}):
        path = f"images{part.name}/{case}_{channel:04d}{part.ending}"
        yield finding("DATA004", path, f"channel {channel} of case {case} is missing")
    for channel in sorted({*files} - {*range(count)}):
        message = f"channel {channel} is not in dataset.json's channel_names"
        yield finding("DATA005", _inside(dataset, files[channel]), message)


def _count(dataset: Path, part: Part, document: dict[str, Any]) -> Iterator[Finding]:
    key, there = COUNTS[part.name], len(part.images)
    hint = f'"{key}": {there}'
    if key not in document:
        if part.name == "Tr":
            yield finding("DATA008", "dataset.json", "numTraining is missing", hint)
    elif document[key] != there:
        message = f"{key} = {document[key]}, but images{part.name} holds {there} cases"
        level: Level = "error" if part.name == "Tr" else "warning"
        yield finding("DATA009", "dataset.json", message, hint, level=level, line=_line(dataset, key))


def _volumes(dataset: Path, parts: list[Part], document: dict[str, Any], *, progress: bool) -> Iterator[Finding]:
    """Read every file once, and compare those of a case with each other."""
    code = document.get("image_orientation")
    expected = Expected(orientation=code if orientation.is_valid(code) else None, values=_values(document))
    parts = [part for part in parts if part.ending in ENDINGS]
    files = [
        ((part.name, case), path, _inside(dataset, path), is_label)
        for part in parts
        for case in part.cases
        for path, is_label in [*((p, False) for p in _ordered(part, case)), *((p, True) for p in _label(part, case))]
    ]
    by_case = look_at_all(files, expected, progress=progress)
    yield from judge_all(by_case)
    if expected.orientation is None:
        yield from _orientations([volume for volumes in by_case.values() for volume in volumes])


def _ordered(part: Part, case: str) -> list[Path]:
    files = part.images.get(case, {})
    return [files[channel] for channel in sorted(files)]


def _label(part: Part, case: str) -> list[Path]:
    return [part.labels[case]] if case in part.labels else []


def _orientations(volumes: list[Seen]) -> Iterator[Finding]:
    """Say what image_orientation should be, where dataset.json does not say it."""
    counts = Counter(orientation.of_affine(v.affine) for v in volumes if v.affine is not None)
    listed = ", ".join(f"{orientation.describe(code)}: {count}" for code, count in counts.most_common())
    if len(counts) == 1:
        hint = f'"image_orientation": "{next(iter(counts))}"'
        yield finding("DATA026", "dataset.json", f"all files are {listed}", hint)
    elif counts:
        yield finding("DATA013", "dataset.json", f"the files have several orientations: {listed}")


def _values(document: dict[str, Any]) -> frozenset[int] | None:
    """Return the values that a label map may hold, None where dataset.json cannot be read that far."""
    if not isinstance(document.get("labels"), dict) or not document["labels"]:
        return None
    try:
        values = {value for named in regions(document).values() for value in named} | {0}
    except MregError:
        return None
    ignore = document["labels"].get("ignore")
    return frozenset(values | ({ignore} if isinstance(ignore, int) else set()))


def _line(dataset: Path, key: str) -> int | None:
    """Return the line of a key of dataset.json."""
    return lines.of_key((dataset / "dataset.json").read_text(encoding="utf-8", errors="replace"), key)


def _inside(dataset: Path, path: Path) -> str:
    return path.relative_to(dataset).as_posix()
