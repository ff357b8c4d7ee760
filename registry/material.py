"""The files of one release, wherever they are: published, or in a folder that somebody carried here."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Protocol

from registry import cache, transfer
from registry.errors import IntegrityError, NotFoundError
from registry.files import sha256
from registry.manifest import MANIFEST_NAME
from registry.published import require_file_name

if TYPE_CHECKING:
    from pathlib import Path

    from registry.manifest import Manifest
    from registry.stores import Release, Store

MAX_DOCUMENT_BYTES = 4 << 20  # of a manifest, signature or attestation


class Material(Protocol):
    """What `verify` looks at."""

    def names(self) -> list[str]:
        """Return the names of the files."""

    def wanted(self, manifest: Manifest | None) -> list[str]:
        """Return the archives to look at."""

    def read(self, name: str) -> bytes | None:
        """Return a small file, None where there is none."""

    def file(self, name: str) -> Path | None:
        """Return a small file's path on this machine, None where there is none."""

    def archive(self, name: str) -> tuple[Path, str]:
        """Return a file's path on this machine and the SHA-256 of its bytes there; raise `NotFoundError`."""

    def stated(self, name: str) -> str:
        """Return the SHA-256 that the registry computed, "" where there is none."""

    def require_tag(self, manifest: Manifest) -> None:
        """Raise `IntegrityError` where a manifest is another release's."""


class ReleasedMaterial:
    """A published release; archives come into the cache, small files into `folder`."""

    def __init__(self, store: Store, release: Release, folder: Path) -> None:
        self._store, self._release, self._folder = store, release, folder

    def names(self) -> list[str]:
        """Return the names of the assets."""
        return [asset.name for asset in self._release.assets if asset.uploaded]

    def wanted(self, manifest: Manifest | None) -> list[str]:
        """Return the archives of the manifest, else every zip."""
        return [asset.name for asset in manifest.assets] if manifest else [n for n in self.names() if _is_zip(n)]

    def read(self, name: str) -> bytes | None:
        """Return a small asset; raise `IntegrityError` where the registry gives other bytes than it computed."""
        asset = self._release.asset(require_file_name(name))
        if asset is None:
            return None
        if asset.size > MAX_DOCUMENT_BYTES:
            raise IntegrityError(f"{name}: {asset.size} bytes, too large to be one of ours", hint="do not use it")
        target = self._folder / name
        if not target.exists():
            with self._store.open_asset(self._release, asset) as stream:
                data = b"".join(iter(lambda: stream.read(MAX_DOCUMENT_BYTES), b""))
            if len(data) != asset.size or asset.sha256 not in ("", hashlib.sha256(data).hexdigest()):
                raise IntegrityError(f"{name}: other bytes than were published", hint="try again")
            target.write_bytes(data)
        return target.read_bytes()

    def file(self, name: str) -> Path | None:
        """Return a copy of a small asset."""
        return None if self.read(name) is None else self._folder / name

    def archive(self, name: str) -> tuple[Path, str]:
        """Return an archive in the cache, fetched if it has to be, and what its bytes are now.

        Taken from the registry alone: a mirror that has the right bytes says nothing of the release.
        """
        asset = self._release.asset(require_file_name(name))
        where = f"{self._release.repo}@{self._release.tag}"
        if asset is None:
            raise NotFoundError(f"{where}: no asset {name}")
        parts = (self._store.location, self._release.repo, self._release.tag, asset.name, asset.id, asset.size)
        key = asset.sha256 or cache.key_of(*parts)
        path = cache.archive_path(key, name)
        with cache.locked(path):
            if path.exists() and asset.sha256 and sha256(path) != asset.sha256:
                path.unlink()  # a disk that forgets is not the release's fault
            source = transfer.Source(
                label=name,
                identity=key,
                size=asset.size,
                sha256=asset.sha256,
                open=lambda offset: self._store.open_asset(self._release, asset, offset),
            )
            return path, transfer.download(source, path)

    def stated(self, name: str) -> str:
        """Return the digest that the registry computed."""
        asset = self._release.asset(name)
        return asset.sha256 if asset else ""

    def require_tag(self, manifest: Manifest) -> None:
        """Raise where the manifest is of another release; the name may differ, since repositories are renamed."""
        if manifest.tag != self._release.tag:
            raise IntegrityError(f"{MANIFEST_NAME} is that of {manifest.name}@{manifest.tag}")


class FolderMaterial:
    """An archive with what lies beside it, or a folder of a release's files."""

    def __init__(self, path: Path) -> None:
        is_one = path.is_file() and path.name != MANIFEST_NAME
        self._one = path.name if is_one else ""
        self._folder = path if path.is_dir() else path.parent
        if not is_one and not (self._folder / MANIFEST_NAME).is_file():
            raise NotFoundError(f"{path}: no {MANIFEST_NAME} in this folder", hint="give the path of an archive")

    def names(self) -> list[str]:
        """Return the archive alone, or every file of the folder."""
        return [self._one] if self._one else sorted(path.name for path in self._folder.iterdir() if path.is_file())

    def wanted(self, manifest: Manifest | None) -> list[str]:
        """Return the archive, or all of the manifest's."""
        return [self._one] if self._one else [asset.name for asset in manifest.assets] if manifest else []

    def read(self, name: str) -> bytes | None:
        """Return a small file that lies beside the archive."""
        path = self.file(name)
        return path.read_bytes() if path else None

    def file(self, name: str) -> Path | None:
        """Return a small file's path."""
        path = self._folder / name
        if not path.is_file():
            return None
        if path.stat().st_size > MAX_DOCUMENT_BYTES:
            raise IntegrityError(f"{path}: too large to be one of ours")
        return path

    def archive(self, name: str) -> tuple[Path, str]:
        """Return an archive and its digest."""
        path = self._folder / name
        if not path.is_file():
            raise NotFoundError(f"{path}: no such file")
        return path, sha256(path)

    def stated(self, name: str) -> str:  # noqa: ARG002 - nobody states anything of a file
        """Return nothing: a folder is no registry."""
        return ""

    def require_tag(self, manifest: Manifest) -> None:
        """Accept the manifest: a folder's name says nothing."""


def _is_zip(name: str) -> bool:
    return name.lower().endswith(".zip")
