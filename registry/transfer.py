"""Bytes from somewhere into a file: resumed, verified, whole or not there."""

from __future__ import annotations

import errno
import glob
import hashlib
import os
import shutil
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, BinaryIO

from registry import output
from registry.errors import ConflictError, IntegrityError, MregError
from registry.files import atomic_write, naming, sha256
from registry.hashing import Buffers, HashThread

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from io import FileIO
    from pathlib import Path

CHUNK_BYTES = 1 << 20
FLUSH_BYTES = 32 << 20  # so much at a time is sent to the disk while more comes in
WAITS = (1.0, 2.0, 4.0, 8.0)  # seconds before each further try that brings no byte


class Interrupted(Exception):  # noqa: N818 - not an error until patience is at its end
    """A connection that broke; another one may go on."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where bytes come from."""

    label: str  # for messages
    identity: str  # equal identities have equal bytes, so a part of one continues with the other
    size: int | None  # bytes, None where nobody says
    sha256: str  # "" where nobody says
    open: Callable[[int], BinaryIO]  # the bytes from an offset on; reading may raise `Interrupted`
    place: str = ""  # registry or address, for messages


def download(source: Source, target: Path) -> str:
    """Download into `target` and return the SHA-256.

    Bytes go to a hidden part file beside the target, which another call continues. A target that is there already
    is verified and kept. Raises `ConflictError` where the target has other bytes, and `IntegrityError` where the
    source has others than it promised.
    """
    if target.exists():
        return _verify_existing(source, target)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.{source.identity[:16]}.part")
    _sweep(target, part)
    resumed = part.exists() and part.stat().st_size > 0
    digest = _complete(source, part)
    if source.sha256 and digest != source.sha256 and resumed:
        output.say(f"{source.label}: what an earlier try had left does not fit, starting again")
        part.unlink()
        digest = _complete(source, part)
    if source.sha256 and digest != source.sha256:
        part.unlink()
        raise IntegrityError(
            f"{source.label}: SHA-256 is {digest}, expected {source.sha256}",
            hint="do not use it; try again, and tell the people who published it",
        )
    part.replace(target)
    return digest


def download_any(sources: Sequence[Source], target: Path) -> str:
    """Download from the first source that gives the promised bytes, in order, and return the SHA-256.

    All sources have the same identity and digest: each continues what the one before it has left. Raises the first
    source's error where none helps.
    """
    errors: list[MregError] = []
    for number, source in enumerate(sources, 1):
        try:
            return download(source, target)
        except ConflictError:
            raise  # the target's fault
        except MregError as error:
            errors.append(error)
            if number < len(sources):
                output.warn(error.message)
                output.say(f"{source.label}: trying the mirror {sources[number].place}")
    first, mirrors = errors[0], len(errors) - 1
    if not mirrors:
        raise first
    what = "the mirror has not helped" if mirrors == 1 else f"{mirrors} mirrors have not helped"
    raise type(first)(f"{first.message}; {what}", hint=first.hint) from first


def copy(source: Path, target: Path) -> str:
    """Copy a local file, whole or not at all, and return its SHA-256; an equal target is kept."""
    digest = sha256(source)
    if target.exists():
        _require_equal(target, digest)
        return digest
    _sweep(target)
    with source.open("rb") as reader, atomic_write(target) as writer:
        shutil.copyfileobj(reader, writer, CHUNK_BYTES)
    return digest


def _verify_existing(source: Source, target: Path) -> str:
    if source.sha256:
        return _require_equal(target, source.sha256)
    if source.size is not None and target.stat().st_size != source.size:
        raise _other(target)
    return sha256(target)


def _require_equal(target: Path, expected: str) -> str:
    if not target.is_file() or sha256(target) != expected:
        raise _other(target)
    return expected


def _other(target: Path) -> ConflictError:
    return ConflictError(
        f"{target}: there is another file of that name", hint="remove it, or choose another folder: -o DIR"
    )


def _complete(source: Source, part: Path) -> str:
    """Append what the part lacks; a break in between is patched up while it goes on at all."""
    digest = hashlib.sha256()
    have = _rehash(part, digest)
    if source.size is not None and have > source.size:
        part.unlink()
        return _complete(source, part)
    if source.size is not None:
        _require_space(part, source.size - have)
    idle = 0
    bar = output.byte_progress(source.label, source.size or 0)
    with bar as progress, naming(part), part.open("ab", buffering=0) as file:
        progress(have)
        while True:
            before = have
            try:
                have = _append(source, have, file, digest, progress)
                break
            except Interrupted as fault:
                have = file.tell()
                idle = 0 if have > before else idle + 1
                if idle >= len(WAITS):
                    raise IntegrityError(
                        f"{source.label}: ended after {have} of {source.size or 'unknown'} bytes: {fault}",
                        hint="run the same command again: it continues",
                    ) from fault
                time.sleep(WAITS[idle])
        os.fsync(file.fileno())
    if source.size is not None and have != source.size:
        part.unlink()
        raise IntegrityError(f"{source.label}: {have} bytes, expected {source.size}", hint="try again later")
    return digest.hexdigest()


def _append(source: Source, have: int, file: FileIO, digest: hashlib._Hash, progress: Callable[[int], None]) -> int:
    """Read to the end from offset `have`; return the number of bytes in the file."""
    if have == source.size:
        return have
    flushed, buffers = have, Buffers()
    with source.open(have) as stream, HashThread(digest) as hashing:
        while count := stream.readinto(buffer := buffers.take()):  # type: ignore[attr-defined]
            piece = memoryview(buffer)[:count]
            _write(file, piece)  # at once, so that a kill loses little
            hashing.put(piece, partial(buffers.give_back, buffer))
            have += count
            progress(count)
            if source.size is not None and have > source.size:
                break
            if have - flushed >= FLUSH_BYTES:
                _start_flush(file, flushed, have - flushed)
                flushed = have
    return have


def _write(file: FileIO, piece: memoryview) -> None:
    done = 0
    while done < len(piece):
        done += file.write(piece[done:]) or 0


def _start_flush(file: FileIO, start: int, count: int) -> None:
    """Let the disk begin, so that little is left to wait for at the end."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(file.fileno(), start, count, os.POSIX_FADV_DONTNEED)


def _rehash(part: Path, digest: hashlib._Hash) -> int:
    """Hash what an earlier try left; return its size."""
    if not part.exists():
        return 0
    have = 0
    with part.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
            have += len(chunk)
    return have


def _require_space(part: Path, missing: int) -> None:
    """Fail before the download and not at its end."""
    if shutil.disk_usage(part.parent).free < missing:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(part.parent))


def _sweep(target: Path, keep: Path | None = None) -> None:
    """Remove what killed processes have left of a target, which the caller holds against others."""
    for stale in target.parent.glob(f".{glob.escape(target.name)}.*.part"):
        if stale != keep:
            stale.unlink()
