"""Which images belong together: the channels of a case, and the labelled cases of a dataset."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from registry.errors import MregError, NotFoundError
from registry.files import read_object
from registry.near import meant_path
from registry.splits import read_splits

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

ENDINGS = (".nii.gz", ".nii")
SPLITS = ("test", "val", "train")


@dataclass(frozen=True, kw_only=True)
class Case:
    """A case's images, one a channel, and for a labelled case its label map and the folds that may judge it."""

    name: str
    images: tuple[Path, ...]
    label: Path | None = None
    folds: tuple[str, ...] = ()


def group_images(words: Sequence[str], channels: int, endings: tuple[str, ...] = ENDINGS) -> list[Case]:
    """Group the images on a command line into cases of as many channels as the model has.

    A case is one word `A.nii.gz,B.nii.gz`, or the files CASE_0000.nii.gz, CASE_0001.nii.gz and so on. Raises
    `MregError` for a missing file, another number of channels and two cases of one name.
    """
    groups: dict[str, dict[int, Path]] = {}
    stems = {_stem(Path(word)) for word in words}
    for word in words:
        paths = [Path(part) for part in word.split(",")] if "," in word and not Path(word).exists() else [Path(word)]
        for path in paths:
            _require_image(path, endings)
        name, number = _split_name(paths[0])
        # With one channel only _0000 is a channel's number: scan_0007.nii.gz is the seventh scan.
        counts = number == 0 or (number is not None and (channels > 1 or f"{name}_0000" in stems))
        group = groups.setdefault(name if counts else _stem(paths[0]), {})
        first = number or 0 if counts and len(paths) == 1 else 0
        for position, path in enumerate(paths, start=first):
            if position in group:
                raise MregError(
                    f"{path}: its result would have the name of that of {group[position]}",
                    hint="predict them into two folders, or rename one",
                )
            group[position] = path
    return [_case(name, group, channels) for name, group in groups.items()]


def _case(name: str, group: dict[int, Path], channels: int) -> Case:
    paths = tuple(group[number] for number in sorted(group))
    if set(group) != set(range(channels)):
        raise MregError(
            f"{paths[0]}: the model takes {channels} channel{'s' * (channels > 1)} (0000 to {channels - 1:04d}), and "
            f"case {name} has {', '.join(path.name for path in paths)}",
            hint="give each case's channels as CASE_0000.nii.gz CASE_0001.nii.gz, or joined: A.nii.gz,B.nii.gz",
        )
    return Case(name=name, images=paths)


def _require_image(path: Path, endings: tuple[str, ...]) -> None:
    if path.is_dir():
        raise MregError(f"{path}: a folder, not an image", hint=f"name its files: {path}/*.nii.gz")
    if not path.is_file():
        raise NotFoundError(f"{path}: no such image", hint=meant_path(path))
    if not path.name.endswith(endings):
        kind = "a NIfTI file" if endings == ENDINGS else "an image"
        raise MregError(f"{path}: not {kind} ({' or '.join(endings)})", hint="convert it to .nii.gz")


def _stem(path: Path) -> str:
    name = path.name.removesuffix(".gz")
    return name.rpartition(".")[0] if name.endswith((".nii", ".mha", ".mhd", ".nrrd")) else name


def _split_name(path: Path) -> tuple[str, int | None]:
    """Split CASE_0001.nii.gz into CASE and 1."""
    found = re.fullmatch(r"(.+)_(\d{4})", _stem(path))
    return (found[1], int(found[2])) if found else (_stem(path), None)


def labelled_cases(dataset: Path, split: str | None, folds: Sequence[str], splits_file: Path) -> tuple[str, list[Case]]:
    """Return the split and its labelled cases, each with the folds whose networks shall predict it.

    test: imagesTs and labelsTs, all folds together. val: the cases that a fold's training held out, by that fold
    (`splits_file` says which). train: every case of imagesTr, all folds together, whether they saw it or not.
    By default test where there are labels for it, else val.
    """
    document = read_object(dataset / "dataset.json")
    chosen = split or ("test" if _labels(dataset / "labelsTs", document) else "val")
    part = "Ts" if chosen == "test" else "Tr"
    labels = _labels(dataset / f"labels{part}", document)
    if chosen == "val":
        judges = _held_out(folds, splits_file)
        if missing := sorted(set(judges) - set(labels)):
            raise NotFoundError(
                f"{dataset / 'labelsTr'}: no label of {missing[0]}, which {splits_file} names",
                hint="evaluate on the dataset that the model was trained on, or choose --split test or train",
            )
    else:
        judges = {case: tuple(folds) for case in labels}
    if not judges:
        raise NotFoundError(f"{dataset}: no labelled case in split {chosen}", hint="choose another --split")
    channels = len(document["channel_names"])
    return chosen, [
        Case(
            name=case,
            images=_channels(dataset / f"images{part}", case, channels, document["file_ending"]),
            label=labels[case],
            folds=judges[case],
        )
        for case in sorted(judges)
    ]


def _labels(folder: Path, document: dict[str, Any]) -> dict[str, Path]:
    ending = document["file_ending"]
    files = (path for path in folder.glob(f"*{ending}") if not path.name.startswith("."))
    return {path.name.removesuffix(ending): path for path in files}


def _channels(folder: Path, case: str, channels: int, ending: str) -> tuple[Path, ...]:
    paths = tuple(folder / f"{case}_{number:04d}{ending}" for number in range(channels))
    for path in paths:
        if not path.is_file():
            raise NotFoundError(f"{path}: no such image, and the case has a label", hint="mreg data verify lists all")
    return paths


def _held_out(folds: Iterable[str], splits_file: Path) -> dict[str, tuple[str, ...]]:
    """Return for each held-out case the folds that did not train on it."""
    if not splits_file.is_file():
        raise NotFoundError(
            f"{splits_file}: no such file, so nobody knows which cases the training held out",
            hint="add imagesTs and labelsTs, or measure on all of imagesTr if the model has not seen it: --split train",
        )
    splits = read_splits(splits_file)
    judges: dict[str, list[str]] = defaultdict(list)
    for fold in folds:
        if fold == "all":
            raise MregError(
                "fold all was trained on every case, so none is left to validate it",
                hint="add imagesTs and labelsTs, or look at the training cases: --split train",
            )
        if int(fold) >= len(splits):
            raise MregError(f"{splits_file}: has {len(splits)} folds, and the model has a fold {fold}")
        for case in splits[int(fold)]["val"]:
            judges[case].append(fold)
    return {case: tuple(by) for case, by in judges.items()}
