"""The raw layout of classification tasks, read as it stands: TaskNNN_Name/{dataset.json, imagesTr, labelsTr}.

`mreg data verify` tells of everything that is wrong; here the first thing that keeps a case from being used is raised.
Nothing is written into the folder: a task without masks gets masks of ones in memory only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainers.core.errors import TrainingError
from trainers.core.files import read_json

if TYPE_CHECKING:
    from pathlib import Path

FILE = "dataset.json"
ENDING = ".nii.gz"
DEFAULT_ORIENTATION = "LPI"  # SCT's letters; images are turned to it where dataset.json has no image_orientation
VERIFY = "mreg data verify tells of everything that is wrong"


@dataclass(frozen=True, kw_only=True)
class Label:
    """A question and its answers, in the order of the network's outputs."""

    name: str
    values: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Case:
    """A case's files, and what is known of it: a class for each label, None where it is not known."""

    name: str
    images: tuple[Path, ...]
    mask: Path | None
    targets: tuple[int | None, ...]
    group: str  # cases of one group stay on one side of a split


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A classification task."""

    folder: Path
    channels: tuple[str, ...]
    labels: tuple[Label, ...]
    cases: tuple[Case, ...]
    roi_classes: int  # foreground classes of the masks, 0 where there are no masks
    orientation: str

    @property
    def has_roi(self) -> bool:
        """Whether cases come with a mask."""
        return self.roi_classes > 0

    @property
    def grouped(self) -> bool:
        """Whether several cases belong to one group."""
        return len({case.group for case in self.cases}) < len(self.cases)

    def case(self, name: str) -> Case:
        """Return a case by name."""
        return next(case for case in self.cases if case.name == name)


def read_dataset(folder: Path, part: str = "training") -> Dataset:
    """Read dataset.json and find the files of its cases; `part` may be test, whose entries may be bare paths."""
    document = read_json(folder / FILE)
    try:
        channels = tuple(document["modality"][str(number)] for number in range(len(document["modality"])))
        labels = tuple(_label(item) for item in document["classification_labels"])
        masks = "labels" in document
        entries = document.get(part, [])
        cases = tuple(_case(folder, part, entry, labels, len(channels), masks) for entry in entries)
    except (KeyError, TypeError, AttributeError) as error:
        raise TrainingError(f"{folder / FILE}: {type(error).__name__} {error}", hint=VERIFY) from error
    return Dataset(
        folder=folder,
        channels=channels,
        labels=labels,
        cases=tuple(sorted(cases, key=lambda case: case.name)),
        roi_classes=len(document["labels"]) - 1 if masks else 0,
        orientation=document.get("image_orientation", DEFAULT_ORIENTATION),
    )


def _label(item: dict[str, Any]) -> Label:
    values = item["values"]
    return Label(name=item["name"], values=tuple(values[str(number)] for number in range(len(values))))


def _case(
    folder: Path, part: str, entry: dict[str, Any] | str, labels: tuple[Label, ...], channels: int, masks: bool
) -> Case:
    about: dict[str, Any] = {"image": entry} if isinstance(entry, str) else entry
    side = "Tr" if part == "training" else "Ts"
    name = str(about["image"]).rpartition("/")[2].removesuffix(ENDING)
    targets = tuple(about[label.name] if part == "training" else about.get(label.name) for label in labels)
    for label, target in zip(labels, targets, strict=True):
        if target is not None and (type(target) is not int or not 0 <= target < len(label.values)):
            raise TrainingError(f"{folder / FILE}: case {name}: {label.name} = {target!r}", hint=VERIFY)
    return Case(
        name=name,
        images=tuple(folder / f"images{side}" / f"{name}_{channel:04d}{ENDING}" for channel in range(channels)),
        mask=folder / f"labels{side}" / f"{name}{ENDING}" if masks else None,
        targets=targets,
        group=str(about.get("group", name)),
    )
