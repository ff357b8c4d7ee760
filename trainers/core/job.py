"""A job in a process of its own: its document comes from a file, its answer goes into another one, talk to stderr."""

from __future__ import annotations

import ctypes
import errno
import json
import signal
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from trainers.core.errors import TrainingError
from trainers.core.files import write_json
from trainers.core.stopping import Stopped

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def run_job(path: Path, work: Callable[[dict[str, Any]], dict[str, Any]]) -> int:
    """Run a job and write its result: `ok` and either the answer or `error` and `hint`; return the exit status."""
    _end_in_order()
    job = json.loads(path.read_text())
    result = Path(job["result"])
    try:
        answer = work(job)
    except TrainingError as error:
        write_json(result, {"ok": False, "error": error.message, "hint": error.hint})
        return 1
    except Stopped as stopped:  # while the data were prepared
        write_json(result, {"ok": True, "stopped": str(stopped)})
        return 0
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        where = f"{error.filename or job.get('run', '')}: ".removeprefix(": ")
        hint = "make room and run the same command again: it goes on from the last checkpoint"
        write_json(result, {"ok": False, "error": f"{where}the disk is full", "hint": hint})
        return 1
    write_json(result, {"ok": True, **answer})
    return 0


@contextmanager
def alone(run_folder: Path) -> Iterator[None]:
    """Make the folder of a run, and keep other trainings out of it; the kernel lets go when the process dies."""
    run_folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(run_folder / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise TrainingError(
            f"{run_folder}: another process is training here", hint="wait for it, or end it first"
        ) from None
    with lock:
        yield


def _end_in_order() -> None:
    """Leave through the clean-ups on SIGTERM and Ctrl-C, and do not outlive the command that started this process.

    An orphan would hold the run's lock; a temporary file would stay behind.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _: sys.exit(128 + received))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
