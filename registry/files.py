"""Files that are written whole or not at all, and their digests."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from registry import output
from registry.errors import IntegrityError, MregError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterator

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let a full disk be told with the file that did not fit, which a write to an open file does not say."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            error.filename = error.filename or str(path)
        raise


@contextmanager
def atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """Open a temporary file beside `path`; on success flush it to disk and rename it, on failure remove it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    temporary = Path(name)
    try:
        with naming(path), os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp makes private files; a dataset is shared
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keep other processes of ours out of a folder, which is made if it is not there.

    The kernel lets go when a process dies, so no lock stays behind.
    """
    import fcntl

    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            output.say(f"{folder}: another process is writing here, waiting")
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError:  # some network file systems lock no folders
            pass
        yield
    finally:
        os.close(handle)


@contextmanager
def workplace(folder: Path, purpose: str) -> Iterator[Path]:
    """Give a temporary folder inside another one, alone there; what a killed process has left there is removed."""
    with alone(folder):
        for left in folder.glob(f".{purpose}-*"):
            shutil.rmtree(left, ignore_errors=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=f".{purpose}-") as work:
            yield Path(work)


def write_text(path: Path, text: str) -> None:
    """Write text as UTF-8 with Unix line ends, whole or not at all."""
    with atomic_write(path) as file:
        file.write(text.encode())


def json_text(value: Any) -> str:
    """Return indented JSON in the order of its keys (their order carries meaning in dataset.json)."""
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON, whole or not at all."""
    write_text(path, json_text(value))


def read_json(path: Path) -> Any:
    """Read JSON; a missing file, bad UTF-8 or bad JSON is one error that names file and line."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise NotFoundError(f"{path}: no such file") from None
    except json.JSONDecodeError as error:
        raise IntegrityError(f"{path}: not JSON: line {error.lineno}, column {error.colno}: {error.msg}") from error
    except (ValueError, RecursionError) as error:  # bad UTF-8, a number of thousands of digits, nested without end
        raise IntegrityError(f"{path}: not JSON: {error}") from error


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object; anything else is one error, as `read_json` says."""
    document = read_json(path)
    if not isinstance(document, dict):
        raise IntegrityError(f"{path}: not a JSON object")
    return document


def home() -> Path:
    """Return the user's home folder; raise `MregError` where there is none, as for a container's nameless user."""
    return expanded("~")


def expanded(text: str) -> Path:
    """Return the path that a person wrote, ~ and ~NAME being home folders; raise `MregError` for none that can be."""
    try:
        path = Path(text).expanduser()
        os.fsencode(path)
    except (RuntimeError, ValueError) as error:
        raise MregError(f"{text!r}: {error}", hint="write the path from / on, or set HOME") from error
    if "\0" in text:
        raise MregError(f"{text!r}: no path has a zero byte")
    return path


def sha256(path: Path) -> str:
    """Return the hex SHA-256 of a file, read in constant memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
