"""A copy of a zip archive with holes: its directory and small members are read by ranges, big members are left out.

The copy is a sparse file of the archive's full size, so whatever reads zip archives finds the members that were read
where they should be. In a member that was left out there are zeros.
"""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from registry import output
from registry.errors import IntegrityError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SMALL = 1 << 20  # bytes; a member up to this size is read
TAIL = 1 << 16  # the end of an archive, where its directory usually fits
NEARBY = 1 << 16  # ranges that lie closer together are read as one
PIECE = 8 << 20


@dataclass
class Reader:
    """A file of `size` bytes; `read` returns those from a first to a last index, both included."""

    read: Callable[[int, int], bytes]
    size: int


def exactly(stream: BinaryIO, count: int) -> bytes:
    """Read that many bytes of a stream, fewer only at its end."""
    pieces = []
    while count > 0 and (piece := stream.read(min(count, PIECE))):
        pieces.append(piece)
        count -= len(piece)
    return b"".join(pieces)


class _Holes(io.RawIOBase):
    """What was read of a file so far, read further where zipfile looks."""

    def __init__(self, reader: Reader, size: int) -> None:
        super().__init__()
        self._reader, self._size, self._at = reader, size, 0
        self.parts: dict[int, bytes] = {}

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise OSError("before the beginning")
        self._at = base + offset
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        count = max(0, min(len(buffer), self._size - self._at))
        buffer[:count] = self.part(self._at, count)
        self._at += count
        return count

    def part(self, start: int, count: int) -> bytes:
        """Return bytes that were read, or read them with what lies before the end."""
        for at, data in self.parts.items():
            if at <= start and start + count <= at + len(data):
                return data[start - at : start - at + count]
        if not count:
            return b""
        first = start if start < self._size - TAIL else max(0, self._size - TAIL)
        last = max(start + count, min(self._size, first + TAIL)) - 1
        self.parts[first] = data = self._reader.read(first, last)
        if len(data) != last - first + 1:
            raise IntegrityError("the server sent other bytes than were asked for", hint="try again")
        return data[start - first : start - first + count]


def copy(reader: Reader, path: Path, *, full: bool) -> dict[str, int]:
    """Copy an archive to `path`; return the members that were left out with their sizes in the archive.

    Raises `IntegrityError` for what is not a whole zip archive.
    """
    size = reader.size
    if full or size <= SMALL:
        _copy_all(reader, path, size)
        return {}
    holes = _Holes(reader, size)
    try:
        with zipfile.ZipFile(io.BufferedReader(holes, TAIL)) as archive:
            infos = sorted(archive.infolist(), key=lambda info: info.header_offset)
            directory = archive.start_dir
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise IntegrityError(f"{path.name}: not a zip archive, or cut off: {error}") from error
    ends = [info.header_offset for info in infos[1:]] + [directory]
    wanted, left_out = [(directory, size)], {}
    for info, end in zip(infos, ends, strict=True):
        if end - info.header_offset > SMALL + NEARBY:
            left_out[info.filename] = info.compress_size
            wanted.append((info.header_offset, min(end, info.header_offset + 1024)))  # its header
        else:
            wanted.append((info.header_offset, end))
    with path.open("wb") as file:
        file.truncate(size)
        for first, last in _joined(wanted):
            file.seek(first)
            file.write(holes.part(first, last - first))
    return left_out


def _joined(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the ranges in order, those that lie close together as one."""
    joined: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if joined and first - joined[-1][1] <= NEARBY:
            joined[-1] = (joined[-1][0], max(last, joined[-1][1]))
        else:
            joined.append((first, last))
    return joined


def _copy_all(reader: Reader, path: Path, size: int) -> None:
    with path.open("wb") as file, output.byte_progress(f"read {path.name}", size) as progress:
        for first in range(0, size, PIECE):
            data = reader.read(first, min(first + PIECE, size) - 1)
            file.write(data)
            progress(len(data))
