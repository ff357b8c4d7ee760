"""A collection of images without labels, as pretrain_data.json describes it: datasets, subjects, sessions, images.

The format is nnssl's. It opens neither torch nor an image, so that the light half can use it.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from trainers.core.errors import TrainingError

if TYPE_CHECKING:
    from collections.abc import Iterator

FILE = "pretrain_data.json"
RAW, PREPROCESSED = "nnssl_raw", "nnssl_preprocessed"
NO_SESSION = "ses-DEFAULT"
Text = Annotated[str, Field(min_length=1)]
Number = Annotated[int, Field(ge=0)]
FilePath = Annotated[str, Field(pattern=r"^(\$[A-Za-z_][A-Za-z0-9_]*)?/.")]
Info = dict[str, Any] | None


class _Level(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")


class Masks(_Level):
    """Masks on the grid of an image."""

    anonymization_mask: FilePath | None  # not 0 where the image was made unrecognisable
    anatomy_mask: FilePath | None  # not 0 where it shows the body


class Image(_Level):
    """An image; a key that nobody knows is an error here and on no other level, as in nnssl."""

    model_config = ConfigDict(strict=True, extra="forbid")
    name: Annotated[str, Field(pattern=r"^[^/]+$")]
    image_path: FilePath
    modality: Text
    image_info: Info = None
    associated_masks: Masks | None = None


class Session(_Level):
    """Images that were taken together."""

    session_id: int | Text
    session_info: Info = None
    images: Annotated[list[Image], Field(min_length=1)]


class Subject(_Level):
    """A person, or a template."""

    subject_id: Text
    subject_info: Info = None
    sessions: Annotated[dict[str, Session], Field(min_length=1)]


class Dataset(_Level):
    """A source of images."""

    dataset_index: Number | Text
    name: str | None = None
    dataset_info: Info = None
    subjects: Annotated[dict[str, Subject], Field(min_length=1)]


class Collection(_Level):
    """The whole of pretrain_data.json."""

    collection_index: Number | Text
    collection_name: Annotated[str, Field(pattern=r"^Dataset[0-9]{3}_[A-Za-z0-9_.-]+$", max_length=255)]
    datasets: Annotated[dict[str, Dataset], Field(min_length=1)]


@dataclass(frozen=True, kw_only=True)
class Item:
    """One image of a collection."""

    id: str  # COLLECTION__DATASET__SUBJECT__SESSION__NAME
    subject: str  # COLLECTION__DATASET__SUBJECT: splits keep it together
    dataset: str  # key of the data set
    image: Image
    folder: str  # COLLECTION/DATASET/SUBJECT/SESSION
    root: Path  # where $nnssl_raw points to, if the environment does not say

    @property
    def stem(self) -> str:
        """Return the image's name without its ending."""
        return self.image.name.removesuffix(ending(self.image.name))

    @property
    def path(self) -> Path:
        """Return the image's file."""
        return resolve(self.image.image_path, self.root)

    @property
    def masks(self) -> dict[str, Path]:
        """Return the masks' files, by what nnssl adds to the preprocessed image's name."""
        masks = self.image.associated_masks
        named = {"anon": masks and masks.anonymization_mask, "anat": masks and masks.anatomy_mask}
        return {name: resolve(path, self.root) for name, path in named.items() if path}


def read_collection(file: Path) -> Collection:
    """Read pretrain_data.json; raise `TrainingError` with the first thing that is wrong."""
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise TrainingError(f"{file}: {error.strerror}", hint=f"a collection is a folder with {FILE}") from error
    try:
        return Collection.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise TrainingError(
            f"{file}: {where + ': ' if where else ''}{first['msg']}", hint="mreg data verify tells of everything"
        ) from error


def items(collection: Collection, root: Path) -> Iterator[Item]:
    """Yield the images in the order of the file; `root` is the folder that holds the collection's."""
    name = collection.collection_name
    for dataset_key, dataset in collection.datasets.items():
        for subject_key, subject in dataset.subjects.items():
            for session_key, session in subject.sessions.items():
                for image in session.images:
                    yield Item(
                        id=f"{name}__{dataset_key}__{subject_key}__{session_key}__{image.name}",
                        subject=f"{name}__{dataset_key}__{subject_key}",
                        dataset=dataset_key,
                        image=image,
                        folder=f"{name}/{dataset_key}/{subject_key}/{session_key}",
                        root=root,
                    )


def contradictions(collection: Collection, folder: str) -> Iterator[str]:
    """Yield what the schema cannot see: keys that are not the ids below them, names twice, endings that differ."""
    if collection.collection_name != folder:
        yield f"collection_name is {collection.collection_name!r}, its folder {folder!r}"
    for key, dataset in collection.datasets.items():
        if str(dataset.dataset_index) != key:
            yield f"dataset {key!r} says dataset_index {dataset.dataset_index!r}"
        for subject_key, subject in dataset.subjects.items():
            if subject.subject_id != subject_key:
                yield f"subject {subject_key!r} of {key!r} says subject_id {subject.subject_id!r}"
            for session_key, session in subject.sessions.items():
                if str(session.session_id) != session_key:
                    yield f"session {session_key!r} of {subject_key!r} says session_id {session.session_id!r}"
                counts = Counter(image.name.removesuffix(ending(image.name)) for image in session.images)
                for stem in sorted(stem for stem, count in counts.items() if count > 1):
                    yield f"session {session_key!r} of {subject_key!r} has {counts[stem]} images {stem!r}"
    endings = sorted({ending(item.image.name) for item in items(collection, Path())})
    if len(endings) > 1:
        yield f"images end in {', '.join(endings)}: nnssl takes the first one's ending for all"


def ending(name: str) -> str:
    """Return a file name's ending.

    >>> ending("sub-01_T2w.nii.gz")
    '.nii.gz'
    """
    return ".nii.gz" if name.endswith(".nii.gz") else Path(name).suffix


def resolve(path: str, root: Path) -> Path:
    """Return where a path points; a first part with $ is a variable, and `root` stands in for $nnssl_raw."""
    first, _, rest = path.partition("/")
    if not first.startswith("$"):
        return Path(path)
    value = os.environ.get(first[1:]) or (str(root) if first[1:] == RAW else "")
    if not value:
        raise TrainingError(f"{path}: the variable {first[1:]} is not set", hint=f"export {first[1:]}=FOLDER")
    return Path(value) / rest


def portable(path: Path, folders: dict[str, Path]) -> str:
    """Return a path with the variable of the first folder that it lies in; the inverse of `resolve`."""
    for name, folder in folders.items():
        if path.is_relative_to(folder):
            return f"${name}/{path.relative_to(folder).as_posix()}"
    return path.as_posix()
