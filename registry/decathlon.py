"""Reads folders with a version-1 dataset.json: the Medical Segmentation Decathlon, and AUC23 with its regions."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from registry.collection import ENDINGS, Collection, Source, stem, texts
from registry.errors import IntegrityError, MregError
from registry.files import read_json

if TYPE_CHECKING:
    from pathlib import Path

ABOUT = {key: key for key in ("description", "reference", "licence", "release")}
FILE = "dataset.json"


def find_decathlon(root: Path) -> Collection:
    """Read the training cases, and the test cases that have a mask.

    A case's channels are the volumes of one 4D file, or the files CASE_0000.nii.gz and so on. Raises `MregError` for a
    document that is not as it should be, and where a training case has no mask.
    """
    document = read_json(root / FILE)
    training = document.get("training") if isinstance(document, dict) else None
    if not isinstance(training, list) or not training:
        raise IntegrityError(
            f"{root / FILE}: no list of training cases", hint="a dataset of version 2 needs no import: mreg data verify"
        )
    if not all(isinstance(item, dict) and isinstance(item.get("image"), str) for item in training):
        raise IntegrityError(f"{root / FILE}: a training case has no image", hint="each needs image and label")
    masked = sum(isinstance(item.get("label"), str) for item in training)
    if masked < len(training) or "labels" not in document:
        raise MregError(
            f"{root / FILE}: {masked} of {len(training)} training cases have a mask",
            hint="a segmentation dataset needs one for each, and labels that say what its values mean",
        )
    channels = tuple(_numbered(root, document, "modality") or ["MRI"])
    sources = [_source(root, item["image"], item["label"], len(channels), test=False) for item in training]
    tests = sorted(path for path in (root / "labelsTs").glob("[!.]*") if path.name.endswith(ENDINGS))
    sources += [
        _source(root, f"imagesTs/{path.name}", f"labelsTs/{path.name}", len(channels), test=True) for path in tests
    ]
    return Collection(
        kind="decathlon",
        sources=tuple(sources),
        channels=channels,
        labels=_labels(root, document),
        about=texts(document, ABOUT),
        left_out=_left_out(root, sources),
    )


def _numbered(root: Path, document: dict[str, Any], key: str) -> list[str]:
    """Return the names of an object whose keys are "0", "1" and so on; nothing where it is absent."""
    named = document.get(key, {})
    if not isinstance(named, dict) or set(named) != {str(number) for number in range(len(named))}:
        raise IntegrityError(
            f"{root / FILE}: {key} is {named!r}", hint=f'version 1 numbers them: "{key}": {{"0": …, "1": …}}'
        )
    return [str(named[str(number)]) for number in range(len(named))]


def _labels(root: Path, document: dict[str, Any]) -> dict[str, int | list[int]]:
    """Turn {"0": "background", "1": "spinal cord"} into names that can be part of a file's name."""
    names = [re.sub(r"\W+", "_", name).strip("_") for name in _numbered(root, document, "labels")]
    names[:1] = ["background"]  # whatever it is called: nnU-Net looks for this word
    if len(set(names)) < len(names):
        raise IntegrityError(f"{root / FILE}: labels have one name twice: {', '.join(names)}", hint="rename one")
    return {name: value for value, name in enumerate(names)}


def _source(root: Path, image: str, mask: str, channels: int, *, test: bool) -> Source:
    for written in (image, mask):
        # By name only: the files of a git-annex clone are links to elsewhere.
        if PurePosixPath(written).is_absolute() or ".." in PurePosixPath(written).parts or "\0" in written:
            raise IntegrityError(f"{root / FILE}: {written!r} lies outside the folder", hint="write relative paths")
    path = root / image
    case, ending = stem(path), path.name.removeprefix(stem(path))
    files = tuple(path.with_name(f"{case}_{channel:04d}{ending}") for channel in range(channels))
    numbered = any(file.is_file() or file.is_symlink() for file in files)
    return Source(
        case=case,
        images=files if numbered else (path,),
        masks=((root / mask, None),),
        test=test,
        is_series=channels > 1 and not numbered,
    )


def _left_out(root: Path, sources: list[Source]) -> tuple[str, ...]:
    taken = {path for source in sources for path in source.images}
    others = [path for path in (root / "imagesTs").glob("[!.]*") if path.name.endswith(ENDINGS) and path not in taken]
    return (f"imagesTs: {len(others)} files without a mask in labelsTs",) if others else ()
