"""The zip that torch writes: which members it must have, and how to read them without being fooled."""

from __future__ import annotations

import struct
import zipfile
import zlib
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple

from registry.errors import IntegrityError, MregError, NotFoundError
from registry.windows import ENCRYPTED, data_start

if TYPE_CHECKING:
    from collections.abc import Iterator

ZIP_START = b"PK\x03\x04"
LARGEST_PICKLE = 1 << 25  # nnU-Net's have 0.1 MB; one of this size takes up to half a minute and 3 GB to read
CHUNK = 1 << 22
DAMAGE = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError)


class Place(NamedTuple):
    """Where a storage's bytes lie in the checkpoint's file, and their checksum as the zip has it."""

    start: int
    size: int
    crc: int


class TorchZip:
    """A checkpoint file; what its directory and its pickle say can still be asked when the file is closed."""

    def __init__(self, archive: zipfile.ZipFile, file: IO[bytes], size: int) -> None:
        self.size = size
        self._zip = archive
        self._file = file
        self._members = self._named(archive.infolist())
        if "constants.pkl" in self._members:
            raise IntegrityError("a TorchScript program, not a checkpoint")
        if "data.pkl" not in self._members:
            raise IntegrityError("a zip, but not one that torch wrote: it has no data.pkl")
        order = self._read("byteorder") if "byteorder" in self._members else b"little"
        if order != b"little":
            raise IntegrityError(f"byte order {order!r}: only little-endian checkpoints are supported")
        self.pickle = self._read("data.pkl")

    @staticmethod
    def _named(members: list[zipfile.ZipInfo]) -> dict[str, zipfile.ZipInfo]:
        """Return the members by their names below the one top folder.

        Readers of zips differ in which of two equal names they take and whether case counts, so a scanner and torch
        could be shown different files: both kinds of double are refused.
        """
        root = members[0].filename.partition("/")[0] if members else ""
        named: dict[str, zipfile.ZipInfo] = {}
        folded = set()
        for member in members:
            top, _, name = member.filename.partition("/")
            if top != root or not name or name.casefold() in folded:
                raise IntegrityError(f"unexpected member {member.filename!r}")
            if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & ENCRYPTED:
                raise IntegrityError(f"member {member.filename!r} is compressed or encrypted, which torch never does")
            folded.add(name.casefold())
            named[name] = member
        return named

    def _read(self, name: str) -> bytes:
        member = self._members[name]
        if member.file_size > LARGEST_PICKLE:
            raise IntegrityError(f"{name} has {member.file_size} bytes")
        return self._zip.read(member)

    def expect(self, key: str, size: int) -> None:
        """Check that a storage is there and has `size` bytes."""
        member = self._members.get(f"data/{key}")
        if member is None:
            raise IntegrityError(f"storage {key} is missing")
        if member.file_size != size:
            raise IntegrityError(f"storage {key} has {member.file_size} bytes, expected {size}")

    def place(self, key: str) -> Place:
        """Return where a storage lies, from the header before its data; the file must be open."""
        member = self._members.get(f"data/{key}")
        if member is None:
            raise IntegrityError(f"storage {key} is missing")
        if member.compress_size != member.file_size:
            raise IntegrityError(f"storage {key} has {member.compress_size} bytes, its entry says {member.file_size}")
        start = data_start(self._file, member)
        if start + member.file_size > self.size:
            raise IntegrityError(f"storage {key} goes beyond the file's end")
        return Place(start, member.file_size, member.CRC)

    def pieces(self, place: Place) -> Iterator[bytes]:
        """Yield a storage's bytes in pieces of whole elements; nobody verifies them."""
        self._file.seek(place.start)
        left = place.size
        while left:
            piece = self._file.read(min(CHUNK, left))
            if not piece:
                raise EOFError
            left -= len(piece)
            yield piece

    def storage(self, key: str, size: int) -> Iterator[bytes]:
        """Yield a storage's bytes in pieces of whole elements; the zip's checksum is verified on the way."""
        self.expect(key, size)
        with self._zip.open(self._members[f"data/{key}"]) as file:
            left = size
            while left:
                chunk = file.read(min(CHUNK, left))
                if not chunk:
                    raise EOFError
                left -= len(chunk)
                yield chunk
            file.read(1)  # the checksum is compared when the end is seen


@contextmanager
def open_checkpoint(source: Path | IO[bytes]) -> Iterator[TorchZip]:
    """Open a checkpoint; whatever is wrong with its bytes becomes one `IntegrityError` that names the file."""
    name = str(source) if isinstance(source, Path) else str(getattr(source, "name", "checkpoint"))
    try:
        if isinstance(source, Path):
            with source.open("rb") as file:
                yield _open(file)
        else:
            yield _open(source)
    except FileNotFoundError:
        raise NotFoundError(f"{name}: no such file") from None
    except MregError as error:
        raise type(error)(f"{name}: {error.message}", hint=error.hint) from error
    except DAMAGE as error:
        raise IntegrityError(
            f"{name}: damaged: {str(error) or type(error).__name__}", hint="copy or download the file again"
        ) from error


def _open(file: IO[bytes]) -> TorchZip:
    file.seek(0)
    start = file.read(len(ZIP_START))
    # torch decides by the first bytes, too: a pickle with a zip glued to its end would be unpickled
    if start != ZIP_START:
        if start[:1] == b"\x80":
            raise IntegrityError(
                "a bare pickle, not a zip: torch's format before 1.6, which cannot be checked",
                hint="load it where you trust it, and save it again with a newer torch",
            )
        raise IntegrityError("not a torch checkpoint: it is no zip", hint="copy or download the file again")
    size = file.seek(0, 2)
    try:
        return TorchZip(zipfile.ZipFile(file), file, size)
    except (ValueError, LookupError, OverflowError) as error:  # what zipfile lets through for a broken directory
        raise zipfile.BadZipFile(str(error)) from error
