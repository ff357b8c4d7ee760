"""Parts of a file as files of their own: the data of a stored member of a zip, read in place."""

from __future__ import annotations

import io
import struct
import zipfile
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

ENCRYPTED, UTF8 = 0x1, 0x800
MEMBER_START = b"PK\x03\x04"
HEADER = struct.Struct("<4s2xH18xHH")  # of a member: signature, flags, lengths of the name and the extra field


def data_start(file: IO[bytes], member: zipfile.ZipInfo) -> int:
    """Return where a member's data begin; raise `BadZipFile` where its header and the directory differ.

    Only the header is read. A program that goes by the headers must see what one that goes by the directory sees.
    """
    file.seek(member.header_offset)
    header = file.read(HEADER.size)
    if len(header) < HEADER.size:
        raise zipfile.BadZipFile("its header is beyond the file's end")
    signature, flags, name_length, extra_length = HEADER.unpack(header)
    name = file.read(name_length).decode("utf-8" if flags & UTF8 else "cp437", "replace")
    if signature != MEMBER_START:
        raise zipfile.BadZipFile("no member begins where the directory says")
    if name != member.orig_filename:
        raise zipfile.BadZipFile(f"its header says {name[:80]!r}")
    return int(member.header_offset + HEADER.size + name_length + extra_length)


class Window(io.RawIOBase):
    """`size` bytes of a file from `start` on, read only; seeking costs nothing, nothing is read ahead.

    The file below is shared: windows must not be read by several threads at a time. Closing leaves it open.
    """

    def __init__(self, file: IO[bytes], start: int, size: int, name: str) -> None:
        super().__init__()
        self._file, self._start, self._size, self._at = file, start, size, 0
        self.name = name

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a position; one before the beginning is a `ValueError`."""
        at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        if at < 0:
            raise ValueError(f"position {at}")
        self._at = at
        return at

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer as far as the window goes."""
        view = memoryview(buffer).cast("B")
        wanted = max(0, min(len(view), self._size - self._at))
        self._file.seek(self._start + self._at)
        data = self._file.read(wanted)
        view[: len(data)] = data
        self._at += len(data)
        return len(data)
