"""The records of the folder registry: repo.json and release.json, and the bytes beside them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from registry.errors import IntegrityError
from registry.files import atomic_write, read_object, write_json
from registry.problems import describe
from registry.stores import Asset, Release

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

T = TypeVar("T")

CHUNK_BYTES = 1 << 20
DRAFT = ".draft-"  # a draft's folder: this and its id
STRICT = ConfigDict(extra="forbid", strict=True)
Number = Annotated[str, Field(pattern=r"^[0-9]{1,18}$")]
FileName = Annotated[str, Field(pattern=r"^[^./\\][^/\\]*$")]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class RepoRecord:
    """The content of repo.json."""

    name: str
    description: str = ""
    topics: list[str] = Field(default_factory=list)
    labels: list[str] = Field(default_factory=list)
    default_branch: str = "main"
    commit: str = ""
    tree: str = ""
    latest: str = ""
    last_id: int = 0
    archived: bool = False


@dataclass(frozen=True, kw_only=True, config=STRICT)
class AssetRecord:
    """A file of a release in release.json."""

    name: FileName
    size: int
    sha256: str


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ReleaseRecord:
    """The content of release.json; what the folder's name and place say (draft, addresses) is not said twice."""

    id: Number
    tag: str
    title: str
    notes: str
    commit: str = ""
    published_at: str = ""
    immutable: bool = False
    assets: list[AssetRecord]


_REPO, _RELEASE = TypeAdapter(RepoRecord), TypeAdapter(ReleaseRecord)


def read_record(path: Path) -> RepoRecord:
    """Read a repo.json; the folder's name is the repository's, whatever the file calls it."""
    return _validated(_REPO, path, {"name": path.parent.name})


def write_release(folder: Path, release: Release) -> None:
    """Write release.json."""
    record = ReleaseRecord(
        id=release.id,
        tag=release.tag,
        title=release.title,
        notes=release.notes,
        commit=release.commit,
        published_at=release.published_at,
        immutable=release.immutable,
        assets=[AssetRecord(name=a.name, size=a.size, sha256=a.sha256) for a in release.assets],
    )
    (folder / "assets").mkdir(parents=True, exist_ok=True)
    write_json(folder / "release.json", asdict(record))


def read_release(folder: Path, repo: str) -> Release:
    """Read the release.json of a release's or a draft's folder."""
    record = _validated(_RELEASE, folder / "release.json", {})
    return Release(
        id=record.id,
        repo=repo,
        tag=record.tag,
        title=record.title,
        notes=record.notes,
        draft=folder.name.startswith(DRAFT),
        commit=record.commit,
        published_at=record.published_at,
        immutable=record.immutable,
        url=folder.as_uri(),
        assets=tuple(
            Asset(id=a.name, name=a.name, size=a.size, sha256=a.sha256, url=(folder / "assets" / a.name).as_uri())
            for a in record.assets
        ),
    )


def _validated(kind: TypeAdapter[T], path: Path, known: dict[str, Any]) -> T:
    try:
        return kind.validate_json(json.dumps({**read_object(path), **known}))
    except ValidationError as error:
        raise IntegrityError(f"{path}: {describe(error)}", hint="restore it from a copy of the registry") from error


def sweep(folder: Path, release: Release) -> None:
    """Remove what killed uploads left beside a draft's assets."""
    names = {asset.name for asset in release.assets}
    for path in (folder / "assets").iterdir():
        if path.name not in names:
            path.unlink()


def copy(source: Path, target: Path, progress: Callable[[int], None] | None) -> tuple[int, str]:
    """Copy a file whole or not at all; return its size in bytes and its SHA-256."""
    digest, size = hashlib.sha256(), 0
    with source.open("rb") as reader, atomic_write(target) as writer:
        while chunk := reader.read(CHUNK_BYTES):
            writer.write(chunk)
            digest.update(chunk)
            size += len(chunk)
            if progress:
                progress(len(chunk))
    return size, digest.hexdigest()
