"""Files to check, wherever they lie: a folder and an archive look the same to a rule."""

from __future__ import annotations

import os
import tempfile
import zipfile
import zlib
from functools import cached_property
from pathlib import Path
from typing import IO, TYPE_CHECKING, Protocol, Self

from registry.errors import IntegrityError, NotFoundError
from registry.unpack import CHUNK_BYTES, HARMLESS_BYTES, MAX_RATIO, require_archive

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

LARGEST_TEXT = 20 << 20  # bytes; a JSON or text file of a model is far smaller
# Whatever zipfile lets through when a directory or a member is damaged.
DAMAGE = (
    zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, LookupError, OverflowError, RuntimeError,
    NotImplementedError,
)  # fmt: skip


class Tree(Protocol):
    """Named files with forward slashes in their paths, read only."""

    name: str

    def files(self) -> list[str]:
        """Return the paths of all files, sorted."""

    def exists(self, path: str) -> bool:
        """Whether there is such a file."""

    def size(self, path: str) -> int:
        """Return a file's size in bytes."""

    def open(self, path: str) -> IO[bytes]:
        """Open a file for reading and seeking; raise `NotFoundError`, or `IntegrityError` for a damaged one."""

    def read_bytes(self, path: str) -> bytes:
        """Return a file's bytes; raise as `open` does, and `IntegrityError` for more than `LARGEST_TEXT`."""

    def read_text(self, path: str) -> str:
        """Return a file's text, with a replacement for what is not UTF-8; raise as `read_bytes` does."""


class DiskTree:
    """A folder; what Git and Python keep there is left out, and so are the folders named in `skip`."""

    HIDDEN = frozenset({".git", "__pycache__", ".venv", ".lock"})

    def __init__(self, root: Path, skip: tuple[str, ...] = ()) -> None:
        self.root = root
        self.name = root.name
        self._skip = {os.path.normpath(root / folder) for folder in skip}

    def files(self) -> list[str]:
        """Return the paths of all files, sorted; links to folders are not followed."""
        return self._files

    @cached_property
    def _files(self) -> list[str]:
        found = []
        for folder, below, names in os.walk(self.root):
            below[:] = [
                name
                for name in below
                if name not in self.HIDDEN and os.path.normpath(Path(folder, name)) not in self._skip
            ]
            found += [Path(folder, name).relative_to(self.root).as_posix() for name in names if name not in self.HIDDEN]
        return sorted(path for path in found if (self.root / path).is_file())

    def exists(self, path: str) -> bool:
        """Whether there is such a file."""
        return (self.root / path).is_file()

    def size(self, path: str) -> int:
        """Return a file's size in bytes."""
        return (self.root / path).stat().st_size

    def open(self, path: str) -> IO[bytes]:
        """Open a file."""
        try:
            return (self.root / path).open("rb")
        except FileNotFoundError:
            raise NotFoundError(f"{self.name}: no {path}") from None

    def read_bytes(self, path: str) -> bytes:
        """Return a file's bytes."""
        with self.open(path) as file:
            return _whole(file, self.size(path), path)

    def read_text(self, path: str) -> str:
        """Return a file's text."""
        return self.read_bytes(path).decode("utf-8", "replace")


class ZipTree:
    """An archive, read in place: nothing is unpacked, no link followed, no more read than a member declares."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.name
        try:
            self.zip = zipfile.ZipFile(require_archive(path))
        except DAMAGE as error:
            raise IntegrityError(f"{path}: not a zip archive, or cut off: {error}", hint="build it again") from error
        self._infos = {info.filename: info for info in self.zip.infolist()}

    def __enter__(self) -> Self:
        """Return the tree."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the archive."""
        self.zip.close()

    def names(self) -> list[str]:
        """Return the names of all members, folders (with a slash at the end) among them, as the archive has them."""
        return [info.filename for info in self.zip.infolist()]

    def files(self) -> list[str]:
        """Return the paths of all members that are files, sorted."""
        return self._files

    @cached_property
    def _files(self) -> list[str]:
        return sorted(name for name in self._infos if name and not name.endswith("/"))

    def exists(self, path: str) -> bool:
        """Whether there is such a file."""
        return path in self._infos and not path.endswith("/")

    def size(self, path: str) -> int:
        """Return a member's size when unpacked, as the archive declares it."""
        return self._infos[path].file_size

    def open(self, path: str) -> IO[bytes]:
        """Open a member; a compressed one is copied first, because seeking in it would inflate it over and over."""
        info = self._infos.get(path)
        if info is None:
            raise NotFoundError(f"{self.name}: no {path}")
        try:
            _require_modest(info)
            member = self.zip.open(info)
            return member if info.compress_type == zipfile.ZIP_STORED else _inflated(member, info)
        except DAMAGE as error:
            raise IntegrityError(f"{path}: damaged: {error}", hint="build or fetch the archive again") from error

    def pieces(self, path: str) -> Iterator[bytes]:
        """Yield a member's bytes to the end, where its checksum is verified; raise `IntegrityError`."""
        info = self._infos[path]
        try:
            _require_modest(info)
            with self.zip.open(info) as file:
                while piece := file.read(CHUNK_BYTES):
                    yield piece
        except DAMAGE as error:
            raise IntegrityError(f"{path}: damaged: {error}", hint="build or fetch the archive again") from error

    def read_bytes(self, path: str) -> bytes:
        """Return a member's bytes; its checksum is verified."""
        try:
            with self.open(path) as file:
                return _whole(file, self.size(path), path)
        except DAMAGE as error:
            raise IntegrityError(f"{path}: damaged: {error}", hint="build or fetch the archive again") from error

    def read_text(self, path: str) -> str:
        """Return a member's text."""
        return self.read_bytes(path).decode("utf-8", "replace")


def _whole(file: IO[bytes], size: int, path: str) -> bytes:
    if size > LARGEST_TEXT:
        raise IntegrityError(f"{path}: {size} bytes, which no such file has", hint="remove it")
    return file.read(LARGEST_TEXT + 1)


def _require_modest(info: zipfile.ZipInfo) -> None:
    if info.file_size > max(HARMLESS_BYTES, MAX_RATIO * info.compress_size):
        raise zipfile.BadZipFile(f"{info.compress_size} bytes that would become {info.file_size}")


def _inflated(member: IO[bytes], info: zipfile.ZipInfo) -> IO[bytes]:
    """Copy a compressed member to a temporary file; zipfile stops at the size that its entry says."""
    copy = tempfile.NamedTemporaryFile()  # noqa: SIM115 - the caller closes it
    try:
        with member:
            while piece := member.read(CHUNK_BYTES):
                copy.write(piece)
        copy.seek(0)
    except BaseException:
        copy.close()
        raise
    copy.name = info.filename  # for messages; the file itself has another name
    return copy
