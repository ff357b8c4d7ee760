"""Files to check, wherever they lie: a folder and an archive look the same to a rule."""

from __future__ import annotations

import os
import tempfile
import zipfile
import zlib
from functools import cached_property
from pathlib import Path
from typing import IO, TYPE_CHECKING, Protocol, Self, cast

from registry.errors import IntegrityError, NotFoundError
from registry.unpack import CHUNK_BYTES, HARMLESS_BYTES, MAX_RATIO
from registry.windows import ENCRYPTED, Window, data_start

if TYPE_CHECKING:
    from types import TracebackType

LARGEST_TEXT = 20 << 20  # bytes; a JSON or text file of a model is far smaller
KEPT_TEXT, KEPT = 1 << 20, 16 << 20  # bytes of a member that is kept for the next rule, and of all that are kept
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
        self.file = path.open("rb", buffering=0)  # nothing is read ahead of what is wanted
        try:
            self.zip = zipfile.ZipFile(self.file)
        except DAMAGE as error:
            self.file.close()
            raise IntegrityError(f"{path}: not a zip archive, or cut off: {error}", hint="build it again") from error
        self._infos = {info.filename: info for info in self.zip.infolist()}
        self._copies: dict[str, Path] = {}
        self._kept: dict[str, bytes] = {}

    def __enter__(self) -> Self:
        """Return the tree."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the archive."""
        self.zip.close()
        self.file.close()

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

    def is_stored(self, path: str) -> bool:
        """Whether a member's bytes lie in the archive as they are."""
        return self._infos[path].compress_type == zipfile.ZIP_STORED

    def use_copy(self, path: str, copy: Path) -> None:
        """Take a member's bytes from a file that they were inflated to."""
        self._copies[path] = copy

    def open(self, path: str) -> IO[bytes]:
        """Open a member; a compressed one is copied first, because seeking in it would inflate it over and over.

        Nobody compares a stored member's checksum: `read_bytes` and a survey do.
        """
        info = self._infos.get(path)
        if info is None:
            raise NotFoundError(f"{self.name}: no {path}")
        try:
            if path in self._copies:
                return self._copies[path].open("rb")
            _require_modest(info)
            if info.compress_type != zipfile.ZIP_STORED:
                return _inflated(self.zip.open(info), info)
            return self._window(info)
        except DAMAGE as error:
            raise IntegrityError(f"{path}: damaged: {error}", hint="build or fetch the archive again") from error

    def _window(self, info: zipfile.ZipInfo) -> IO[bytes]:
        if info.flag_bits & ENCRYPTED:
            raise zipfile.BadZipFile("encrypted")
        if info.compress_size != info.file_size:
            raise zipfile.BadZipFile(f"{info.compress_size} bytes, its entry says {info.file_size}")
        window = Window(self.file, data_start(self.file, info), info.file_size, info.filename)
        return cast("IO[bytes]", window)

    def read_bytes(self, path: str) -> bytes:
        """Return a member's bytes; its checksum is verified. Small ones are kept: many rules read the same files."""
        if path in self._kept:
            return self._kept[path]
        info = self._infos.get(path)
        if info is None:
            raise NotFoundError(f"{self.name}: no {path}")
        try:
            _require_modest(info)
            with self.zip.open(info) as file:
                data = _whole(file, info.file_size, path)
        except DAMAGE as error:
            raise IntegrityError(f"{path}: damaged: {error}", hint="build or fetch the archive again") from error
        if len(data) <= KEPT_TEXT and len(data) + sum(map(len, self._kept.values())) <= KEPT:
            self._kept[path] = data
        return data

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
