"""What is wrong with a collection for pre-training: pretrain_data.json and the images that it names."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from registry.dataset_findings import finding
from registry.dataset_volumes import Expected, judge_all, look_at_all
from registry.errors import IntegrityError
from registry.files import read_json
from registry.findings import Finding, Level
from registry.schemas import validate
from trainers.core.errors import TrainingError
from trainers.pretraining.collection import FILE, Collection, contradictions, items

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from trainers.pretraining.collection import Item


class Kind(NamedTuple):
    """One kind of finding that other datasets do not have."""

    level: Level
    hint: str
    summary: str


KINDS = {
    "PRETRAIN001": Kind("error", "make them the same", "names or numbers that contradict each other"),
    "PRETRAIN002": Kind("error", "fetch the file, or take the image out", "an image or mask that is not there"),
    "PRETRAIN003": Kind("error", "more subjects, or datasets", "a collection of one subject"),
}


def findings(folder: Path, *, progress: bool = False) -> Iterator[Finding]:
    """Yield everything that is wrong, file by file; each image is read once, a few at a time."""
    document = read_json(folder / FILE)
    if not isinstance(document, dict):
        raise IntegrityError(f"{folder / FILE}: not a JSON object")
    text = (folder / FILE).read_text(encoding="utf-8", errors="replace")
    wrong = validate("pretrain_data", document, FILE, text)
    yield from wrong
    if any(found.level == "error" for found in wrong):
        return  # nothing below can be read with certainty
    collection = Collection.model_validate(document)
    for message in contradictions(collection, folder.resolve().name):
        yield _found("PRETRAIN001", message)
    listed = list(items(collection, folder.resolve().parent))
    if len({item.subject for item in listed}) == 1:
        yield _found("PRETRAIN003", "all images are of one subject: none is left for validation")
    absolute = sum(item.image.image_path.startswith("/") for item in listed)
    if absolute:
        hint = "begin them with $nnssl_raw/ or another variable"
        yield finding("DATA021", FILE, f"{absolute} of {len(listed)} images have an absolute path", hint)
    yield from _volumes(folder.resolve(), listed, progress=progress)


def _found(code: str, message: str, path: str = FILE, hint: str = "") -> Finding:
    kind = KINDS[code]
    return Finding(code=code, level=kind.level, message=message, path=path, hint=hint or kind.hint)


def _volumes(folder: Path, listed: list[Item], *, progress: bool) -> Iterator[Finding]:
    """Read every image and mask once; compare those of an image with it."""
    expected = Expected(orientation=None, values=None)
    files: list[tuple[str, Path, str, bool]] = []
    for item in listed:
        try:
            paths = [(item.path, False), *((path, True) for path in item.masks.values())]
        except TrainingError as error:  # a variable that is not set
            yield _found("PRETRAIN002", error.message, hint=error.hint)
            continue
        for path, is_mask in paths:
            if path.is_file():
                files.append((item.id, path, _name(folder, path), is_mask))
            else:
                yield _found("PRETRAIN002", "no such file", _name(folder, path))
    yield from judge_all(look_at_all(files, expected, progress=progress))


def _name(folder: Path, path: Path) -> str:
    """Return a path as seen from the collection."""
    return os.path.relpath(path, folder)
