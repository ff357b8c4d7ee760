"""What an import found in its source: the cases, and what dataset.json will say about them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

ENDING = ".nii.gz"  # of everything that is written
ENDINGS = (ENDING, ".nii")  # of everything that is read


@dataclass(frozen=True, kw_only=True)
class Source:
    """One case to import: an image file a channel (or one 4D file of them all), and a mask file a label."""

    case: str
    images: tuple[Path, ...]
    masks: tuple[tuple[Path, int | None], ...]  # (file, value it gets; None: the file holds the values)
    test: bool = False
    is_series: bool = False  # the only image is 4D and holds the channels
    counting: tuple[tuple[int, ...] | None, ...] = ()  # of each mask the values that count; None: above the threshold
    cord: Path | None = None  # a mask on another grid or a centreline, kept beside the labels
    flips: tuple[bool, bool] = (False, False)  # of contours, along columns and rows

    @property
    def files(self) -> tuple[Path, ...]:
        """Return every file of the case once, images first."""
        masks = tuple(path for path, _ in self.masks)
        return tuple(dict.fromkeys((*self.images, *masks, *([self.cord] if self.cord else ()))))


@dataclass(frozen=True, kw_only=True)
class Collection:
    """All cases of a source."""

    kind: str  # "bids", "decathlon" or "lesions"
    sources: tuple[Source, ...]
    channels: tuple[str, ...]
    labels: dict[str, int | list[int]]
    about: dict[str, str] = field(default_factory=dict)  # description, licence and the like, as the source has them
    left_out: tuple[str, ...] = ()  # why something was not taken, a line each
    splits: tuple[dict[str, list[str]], ...] = ()  # the source's own folds


def stem(path: Path) -> str:
    """Return the file's name without .nii or .nii.gz."""
    return path.name.removesuffix(".gz").removesuffix(".nii")


def texts(document: object, keys: dict[str, str]) -> dict[str, str]:
    """Return the non-empty texts of a source's JSON document under our own keys ({theirs: ours})."""
    found = document if isinstance(document, dict) else {}
    return {
        ours: text.strip()
        for theirs, ours in keys.items()
        if isinstance(text := found.get(theirs), str) and text.strip()
    }
