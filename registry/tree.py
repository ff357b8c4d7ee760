"""Files to check, wherever they lie: a folder and an archive look the same to a rule."""

from __future__ import annotations

import zipfile
import zlib
from typing import IO, TYPE_CHECKING, Protocol, Self

from registry.errors import IntegrityError, NotFoundError
from registry.unpack import require_archive

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType


class Tree(Protocol):
    """Named files with forward slashes in their paths, read only."""

    name: str

    def files(self) -> list[str]:
        """Return the paths of all files, sorted."""

    def open(self, path: str) -> IO[bytes]:
        """Open a file; raise `NotFoundError`, or `IntegrityError` where it cannot be read."""

    def size(self, path: str) -> int:
        """Return a file's size in bytes."""

    def read_bytes(self, path: str) -> bytes:
        """Return a file's bytes; raise as `open` does."""


class DiskTree:
    """A folder; what Git, Python and mreg itself keep there is left out."""

    HIDDEN = frozenset({".git", "__pycache__", ".venv", ".lock"})

    def __init__(self, root: Path) -> None:
        self.root = root
        self.name = root.name

    def files(self) -> list[str]:
        """Return the paths of all files, sorted."""
        found = (p.relative_to(self.root) for p in self.root.rglob("*") if p.is_file())
        return sorted(path.as_posix() for path in found if not self.HIDDEN & {*path.parts})

    def open(self, path: str) -> IO[bytes]:
        """Open a file."""
        try:
            return (self.root / path).open("rb")
        except FileNotFoundError:
            raise NotFoundError(f"{self.name}: no {path}") from None

    def size(self, path: str) -> int:
        """Return a file's size in bytes."""
        return (self.root / path).stat().st_size

    def read_bytes(self, path: str) -> bytes:
        """Return a file's bytes."""
        with self.open(path) as file:
            return file.read()


class ZipTree:
    """An archive, read in place: nothing is unpacked."""

    def __init__(self, path: Path) -> None:
        self.path = require_archive(path)
        self.name = path.name
        self.zip = zipfile.ZipFile(path)

    def __enter__(self) -> Self:
        """Return the tree."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the archive."""
        self.zip.close()

    def files(self) -> list[str]:
        """Return the paths of all members that are files, sorted."""
        return sorted({info.filename for info in self.zip.infolist() if not info.is_dir()})

    def open(self, path: str) -> IO[bytes]:
        """Open a member."""
        try:
            return self.zip.open(path)
        except KeyError:
            raise NotFoundError(f"{self.name}: no {path}") from None
        except (zipfile.BadZipFile, NotImplementedError, RuntimeError, OSError, ValueError) as error:
            raise IntegrityError(f"{self.name}: {path}: {error}") from error

    def size(self, path: str) -> int:
        """Return a member's size when unpacked, as the archive declares it."""
        return self.zip.getinfo(path).file_size

    def read_bytes(self, path: str) -> bytes:
        """Return a member's bytes; a damaged one is an `IntegrityError`."""
        with self.open(path) as file:
            try:
                return file.read()
            except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError) as error:
                raise IntegrityError(f"{self.name}: {path}: damaged: {error}") from error
