"""What was fetched before: $MREG_CACHE, else the user's cache folder; shared by processes through locks.

archives/KEY/NAME     KEY: the archive's SHA-256, or a hash of where it comes from
unpacked/KEY/NAME     the same, unpacked
receipts/             what was fetched from where (`receipts.py`)
locks/                one file for each target that somebody writes or wrote
"""

from __future__ import annotations

import errno
import hashlib
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from registry import output
from registry.files import expanded, home

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# What a system says of a folder that others fill and we may only read.
READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)


def root() -> Path:
    """Return the cache's folder, which need not exist."""
    chosen = os.environ.get("MREG_CACHE")
    if chosen:
        return expanded(chosen).absolute()
    caches = os.environ.get("XDG_CACHE_HOME")
    return (expanded(caches) if caches else home() / ".cache") / "mreg"


def archive_path(key: str, name: str) -> Path:
    """Return where an archive lies, or would lie."""
    return root() / "archives" / key / name


def unpacked_path(key: str, name: str) -> Path:
    """Return where an unpacked archive lies, or would lie."""
    return root() / "unpacked" / key / name


def key_of(*parts: object) -> str:
    """Return a key for bytes whose digest nobody knows, from everything that tells them from others."""
    return hashlib.sha256("\n".join(str(part) for part in parts).encode()).hexdigest()


@contextmanager
def locked(target: Path) -> Iterator[None]:
    """Hold a target, in the cache or elsewhere, against other processes; wait for the one that has it.

    In a cache that may only be read nothing is held: what is there already can be used.
    """
    folder = root() / "locks"
    lock = FileLock(folder / f"{key_of(target.absolute())[:32]}.lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        output.say(f"{target.name}: another process is fetching it, waiting")
        lock.acquire()
    except OSError as error:
        if error.errno not in READ_ONLY:
            raise
    try:
        yield
    finally:
        lock.release()
