"""Rules on a dataset.json: what nnU-Net and SCT take from it without a word, and not as its author meant it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from registry import orientation
from registry.checks.rules import Draft, line_of, read_object, rule, text_of
from registry.files import read_json
from registry.labels import check_labels
from registry.schemas import load, validate
from registry.spelling import distance

if TYPE_CHECKING:
    from collections.abc import Iterator

    from registry.findings import Finding
    from registry.tree import Tree

ORIENTATION, READER = "image_orientation", "overwrite_image_reader_writer"
REORIENTS = ("NibabelIOWithReorient", "SimpleITKIOWithReorient")  # to LPI (nibabel RAS), inside nnU-Net
FALLBACK, AIL = "LPI", "RegionBasedLesionSeg"  # what SCT takes without a code, and of which datasets it takes AIL
OLD_KEYS = {"modality": "channel_names", "tensorImageSize": ""}  # of nnU-Net v1 and the Decathlon
NEAR = 3  # typing errors in a key


@dataclass(frozen=True)
class DatasetFile:
    """A dataset.json in a tree, and the plans that were made for its data."""

    tree: Tree
    path: str
    document: dict[str, Any]
    plans_path: str = ""

    @property
    def plans(self) -> dict[str, Any]:
        """Return plans.json, an empty object where there is none."""
        return (read_object(self.tree, self.plans_path) if self.plans_path else None) or {}

    def line(self, *keys: str | int) -> int | None:
        """Return the line of a key."""
        return line_of(self.tree, self.path, *keys)


@cache
def packages() -> dict[str, Any]:
    """Return what nnU-Net's packages hold that SCT installs, and what only newer ones hold."""
    known: dict[str, Any] = read_json(Path(__file__).parents[1] / "stock_packages.json")
    return known


@rule("ORIENT003")
def reader_keeps_the_orientation(dataset: DatasetFile) -> Iterator[Draft]:
    """A model whose reader turns every image to LPI says LPI, because SCT goes round that reader."""
    code = dataset.document.get(ORIENTATION)
    named = [
        (dataset.path, READER, dataset.document.get(READER)),
        (dataset.plans_path, "image_reader_writer", dataset.plans.get("image_reader_writer")),
    ]
    for path, key, reader in named:
        if reader in REORIENTS and orientation.is_valid(code) and code != FALLBACK:
            message = (
                f"{key} {reader} turns images to {orientation.describe(FALLBACK)} before training, "
                f"{ORIENTATION} is {orientation.describe(str(code))}"
            )
            hint = f'"{ORIENTATION}": "{FALLBACK}", or train with SimpleITKIO'
            yield path, message, hint, line_of(dataset.tree, path, key)


@rule("ORIENT004", "warning")
def orientation_key_is_spelt_right(dataset: DatasetFile) -> Iterator[Draft]:
    """No key looks like image_orientation: nobody reads another one."""
    for key in dataset.document:
        plain = "".join(letter for letter in key.lower() if letter.isalpha())
        if key != ORIENTATION and (plain.endswith("orientation") or distance(plain, "imageorientation") <= NEAR):
            hint = f"the key is {ORIENTATION}"
            yield dataset.path, f"key {key!r} is read by nobody", hint, dataset.line(key)


@rule("CONTRACT001", "warning")
def keys_are_spelt_right(dataset: DatasetFile) -> Iterator[Draft]:
    """No key is one letter or two away from one that is read."""
    known = list(load("dataset")["properties"])
    for key in set(dataset.document) - set(known):
        near = [other for other in known if distance(key.lower(), other.lower()) <= (1 if len(other) < NEAR * 2 else 2)]
        if near and "orientation" not in key.lower():
            yield dataset.path, f"key {key!r} is read by nobody", f"did you mean {near[0]}?", dataset.line(key)


@rule("CONTRACT002", "warning")
def keys_are_of_today(dataset: DatasetFile) -> Iterator[Draft]:
    """No key is left of nnU-Net v1."""
    for key, new in OLD_KEYS.items():
        if key in dataset.document:
            hint = f"its name is {new} now" if new else "take it out"
            yield dataset.path, f"key {key!r} is of nnU-Net v1", hint, dataset.line(key)


@rule("CONTRACT003", "warning")
def count_is_that_of_the_list(dataset: DatasetFile) -> Iterator[Draft]:
    """The counts numTraining and numTest are the lengths of the lists of cases, where there are lists."""
    for key, listed in (("numTraining", "training"), ("numTest", "test")):
        cases, count = dataset.document.get(listed), dataset.document.get(key)
        if isinstance(cases, list) and cases and isinstance(count, int) and len(cases) != count:
            message = f"{key} is {count}, {listed} lists {len(cases)} cases"
            yield dataset.path, message, f'"{key}": {len(cases)}', dataset.line(key)


@rule("CONTRACT004", "warning")
def reader_is_known(dataset: DatasetFile) -> Iterator[Draft]:
    """The image reader is one of nnU-Net's: for any other nnU-Net guesses."""
    reader, known = dataset.document.get(READER), packages()["sct"]["readers"]
    if isinstance(reader, str) and reader not in (*known, "None"):
        message = f"{READER} {reader!r} is none that SCT's nnU-Net has, which guesses one without a word"
        yield dataset.path, message, f"one of {', '.join(known)}", dataset.line(READER)


RULES = [
    reader_keeps_the_orientation, orientation_key_is_spelt_right, keys_are_spelt_right, keys_are_of_today,
    count_is_that_of_the_list, reader_is_known,
]  # fmt: skip


def findings(dataset: DatasetFile) -> Iterator[Finding]:
    """Yield what rules, schema and label semantics find in a dataset.json."""
    for entry in RULES:
        yield from entry.run(dataset)
    text = text_of(dataset.tree, dataset.path)
    # ORIENT001 to ORIENT004 say the same of these keys, in both conventions
    about = (ORIENTATION, f"key '{ORIENTATION}'", "orientation:")
    found = validate("dataset", dataset.document, dataset.path, text)
    found = [finding for finding in found if not finding.message.startswith(about)]
    yield from found
    if not any(finding.level == "error" for finding in found):
        yield from check_labels(dataset.document, dataset.path, text)


def missing_orientation(dataset: DatasetFile) -> Iterator[Draft]:
    """Say that image_orientation is missing, or is none of the 48 codes."""
    code = dataset.document.get(ORIENTATION)
    if code is None:
        taken = "AIL" if AIL in str(dataset.plans.get("dataset_name")) else FALLBACK
        key = next((key for key in dataset.document if "orientation" in key.lower()), "")
        other = f'; the key is not "{key}"' if key else ""
        message = f"no {ORIENTATION}: SCT takes it for {orientation.describe(taken)} without a word{other}"
        hint = f'for example "{ORIENTATION}": "RPI", which is {orientation.describe("RPI")}'
        yield dataset.path, message, hint, dataset.line(key) if key else 1
    elif not orientation.is_valid(code):
        guess = str(code).strip().upper()
        hint = "three capitals, one of R/L, A/P and I/S, in SCT's letters: " + orientation.describe("RPI")
        if orientation.is_valid(guess):
            hint = f"did you mean {orientation.describe(guess)}?"
        message = f"{ORIENTATION} {code!r} is none of the 48 codes: SCT stops, or takes it for another"
        yield dataset.path, message, hint, dataset.line(ORIENTATION)
