"""The records of the folder registry: repo.json and release.json, and the bytes beside them."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from registry.errors import IntegrityError
from registry.files import atomic_write, read_json, write_json
from registry.stores import Asset, Release

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CHUNK_BYTES = 1 << 20
DRAFT = ".draft-"  # a draft's folder: this and its id


@dataclass(frozen=True, kw_only=True)
class RepoRecord:
    """The content of repo.json."""

    name: str
    description: str = ""
    topics: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    default_branch: str = "main"
    commit: str = ""
    tree: str = ""
    latest: str = ""
    last_id: int = 0
    archived: bool = False


def read_record(path: Path) -> RepoRecord:
    """Read a repo.json."""
    try:
        return RepoRecord(**read_json(path))
    except TypeError as error:
        raise IntegrityError(f"{path}: not a repository's record: {error}") from error


def write_release(folder: Path, release: Release) -> None:
    """Write release.json; what the folder's name and place say (draft, addresses) is not written down twice."""
    document: dict[str, Any] = {k: v for k, v in asdict(release).items() if k not in ("repo", "draft", "url", "assets")}
    document["assets"] = [{"name": a.name, "size": a.size, "sha256": a.sha256} for a in release.assets]
    (folder / "assets").mkdir(parents=True, exist_ok=True)
    write_json(folder / "release.json", document)


def read_release(folder: Path, repo: str) -> Release:
    """Read the release.json of a release's or a draft's folder."""
    path = folder / "release.json"
    document = read_json(path)
    try:
        assets = tuple(
            Asset(id=a["name"], url=(folder / "assets" / a["name"]).as_uri(), **a) for a in document.pop("assets")
        )
        draft = folder.name.startswith(DRAFT)
        return Release(repo=repo, draft=draft, url=folder.as_uri(), assets=assets, **document)
    except (TypeError, KeyError, AttributeError) as error:
        raise IntegrityError(f"{path}: not a release's record: {error}") from error


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
