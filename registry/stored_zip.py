"""Zip files whose bytes depend on their members only: no clock, no umask, no zlib build."""

from __future__ import annotations

import struct
import zipfile
from typing import IO, TYPE_CHECKING, Self

if TYPE_CHECKING:
    from types import TracebackType

DATE = (1980, 1, 1, 0, 0, 0)  # the earliest that the format knows
UNIX, FILE_MODE = 3, 0o100644
HEADER, WIDE_SIZES = 30, 20  # bytes of a member's header, and what sizes of 64 bits add
PADDING = 0x4246  # "FB", the extra field that torch pads with


class StoredZip:
    """Writes members in the order given, without compression, each member's data aligned to `alignment` bytes.

    The file must be seekable. Close it, or use it as a context manager, before the file is used.
    """

    def __init__(self, file: IO[bytes], *, alignment: int = 1) -> None:
        self._file = file
        self._zip = zipfile.ZipFile(file, "w", zipfile.ZIP_STORED)
        self._alignment = alignment

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._zip.close()

    def open(self, name: str, size: int) -> IO[bytes]:
        """Open a member of exactly `size` bytes for writing."""
        info = zipfile.ZipInfo(name, DATE)
        info.create_system = UNIX
        info.external_attr = FILE_MODE << 16
        info.file_size = size
        wide = size > zipfile.ZIP64_LIMIT // 2
        end = self._file.tell() + HEADER + len(name.encode()) + (WIDE_SIZES if wide else 0)
        if end % self._alignment:
            length = -(end + 4) % self._alignment
            info.extra = struct.pack("<HH", PADDING, length) + b"Z" * length
        return self._zip.open(info, "w", force_zip64=wide)

    def write(self, name: str, data: bytes) -> None:
        """Write a small member."""
        with self.open(name, len(data)) as member:
            member.write(data)
