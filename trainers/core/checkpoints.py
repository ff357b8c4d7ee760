"""Checkpoints of a training: whole, inert, the last two kept, and a damaged one noticed before it is used.

A file is a zip as torch writes it, with a CRC-32 for each tensor, which torch itself does not look at when it loads. It
holds tensors and plain Python values only and is read with `weights_only=True`: nothing in it can run.
"""

from __future__ import annotations

import errno
import zipfile
import zlib
from typing import TYPE_CHECKING, Any

import torch

from trainers.core.errors import TrainingError
from trainers.core.files import atomic_path

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from trainers.core.progress import Progress

LATEST = "checkpoint_latest.pth"
PREVIOUS = "checkpoint_previous.pth"
BEST = "checkpoint_best.pth"
FINAL = "checkpoint_final.pth"
CHUNK_BYTES = 1 << 20


def save(path: Path, write: Callable[[Path], None]) -> None:
    """Write a checkpoint with `write(temporary path)`, whole or not at all; a former `LATEST` becomes `PREVIOUS`.

    Raises `TrainingError` for a full disk, with everything that was there before still there.
    """
    try:
        with atomic_path(path) as temporary:
            write(temporary)
            if path.name == LATEST and path.is_file():
                path.replace(path.with_name(PREVIOUS))
    except (OSError, RuntimeError) as error:
        # torch's writer reports a full disk as a RuntimeError of its own
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "PytorchStreamWriter" in str(error)
        if not full:
            raise
        raise TrainingError(
            f"{path}: the disk is full, the checkpoint was not written",
            hint="make room and run the same command again: it continues from the checkpoint before",
        ) from error


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write tensors and plain values as a checkpoint."""
    save(path, lambda temporary: torch.save(state, temporary))


def damage(path: Path) -> str:
    """Return what is wrong with a checkpoint's bytes, "" where they are whole."""
    try:
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                with archive.open(info) as member:
                    while member.read(CHUNK_BYTES):
                        pass
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        return _first_line(error)
    try:  # torch reads the directory at a file's end in another way, and all there is of it
        _read(path, torch.device("cpu"), mapped=True)
    except TrainingError as error:
        return error.message
    return ""


def _read(path: Path, device: torch.device, *, mapped: bool = False) -> Any:
    """Read a file without executing anything; `mapped` leaves the tensors where they are."""
    try:
        return torch.load(path, map_location=device, weights_only=True, mmap=mapped)
    except Exception as error:  # torch raises a different class for each way a file can be wrong
        raise TrainingError(_first_line(error)) from error


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def newest(folder: Path, progress: Progress) -> Path | None:
    """Return the newest whole checkpoint to go on from, None where there is none; tell which ones are damaged.

    Raises `TrainingError` where there are some and all are damaged: nothing is trained over them.
    """
    damaged = ""
    for name in (LATEST, PREVIOUS):
        path = folder / name
        if not path.is_file():
            continue
        problem = damage(path)
        if not problem:
            return path
        damaged = damaged or f"{path}: damaged: {problem}"
        progress.say(f"warning: {path} is damaged: {problem}")
    if damaged:
        raise TrainingError(damaged, hint="mreg train --restart starts anew and keeps what is there")
    return None


def load_state(path: Path, device: torch.device) -> dict[str, Any]:
    """Read a checkpoint without executing anything."""
    problem = damage(path)
    if problem:
        raise TrainingError(
            f"{path}: damaged, or holds more than tensors and plain values: {problem}",
            hint="use another checkpoint, or train again",
        )
    state = _read(path, device)
    if not isinstance(state, dict):
        raise TrainingError(f"{path}: a {type(state).__name__}, not a checkpoint")
    return state
