"""Starts a recipe's worker in a process of its own and brings back its answer."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from registry import output
from registry.errors import MregError, StoppedError
from trainers.catalog import RECIPES

if TYPE_CHECKING:
    from types import FrameType

TOLD = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1", "SIGUSR2") if hasattr(signal, name)
)  # SIGUSR2 is submitit's way to tell of a job's end


def installed() -> bool:
    """Whether there is what the workers need; nothing of it is imported."""
    return all(importlib.util.find_spec(name) is not None for name in ("torch", "nnunetv2"))


def require_installed() -> None:
    """Raise `MregError` where torch or nnunetv2 is missing."""
    if not installed():
        raise MregError("torch and nnunetv2 are not installed", hint='install them: pip install "mreg[train]"')


def call(recipe: str, job: dict[str, Any]) -> dict[str, Any]:
    """Run one job and return its answer; the worker's talk goes to this process's stderr.

    The worker is started by file path and with `-P`, so neither the current folder nor a model repo's own `trainers`
    package can take the place of ours. The user's nnUNet_* variables are left behind: paths come from files. An answer
    has `told`, the names of the signals that came meanwhile, where there were some.
    """
    require_installed()
    environment = {key: value for key, value in os.environ.items() if not key.lower().startswith("nnunet_")}
    with tempfile.TemporaryDirectory(prefix="mreg-job-") as folder:
        job_path, result_path = Path(folder, "job.json"), Path(folder, "result.json")
        job_path.write_text(json.dumps({**job, "result": str(result_path)}))
        with output.pause():  # the worker draws progress bars of its own
            process = subprocess.Popen(_command(recipe, job_path), env=environment, stdin=subprocess.DEVNULL)
            status, told = _wait(process)
        if not result_path.is_file() and told:
            raise StoppedError(
                f"the {job['kind']} process was stopped by {told[0]}",
                hint="run the same command again: what is whole is not computed anew",
                signals=told,
            )
        if not result_path.is_file():
            raise MregError(
                f"the {job['kind']} process ended with status {status} and no answer",
                hint="the messages above say why; status -9 usually means that memory ran out",
            )
        result: dict[str, Any] = json.loads(result_path.read_text())
    if not result.pop("ok"):
        raise MregError(result["error"], hint=result["hint"])
    return {**result, "told": told} if told else result


def _command(recipe: str, job: Path) -> list[str]:
    return [sys.executable, "-P", str(RECIPES[recipe].worker), str(job)]


def _wait(process: subprocess.Popen[bytes]) -> tuple[int, tuple[str, ...]]:
    """Wait for the worker, and tell it what this process is told: it finishes its step and saves.

    Returns the worker's status and the names of the signals.
    """
    told: list[str] = []

    def tell(number: int, _: FrameType | None) -> None:
        told.append(signal.Signals(number).name)
        if number != signal.SIGINT and process.poll() is None:  # a terminal sends Ctrl-C to the worker, too
            process.send_signal(number)

    here = threading.current_thread() is threading.main_thread()  # signals can be taken there only
    handlers = {number: signal.signal(number, tell) for number in TOLD if here}
    try:
        while True:
            # Not without a timeout: where another thread gets the signal, the system goes on waiting, and `tell` would
            # have its turn when the worker has ended.
            with suppress(subprocess.TimeoutExpired):
                return process.wait(timeout=1), tuple(told)
    except BaseException:
        process.terminate()
        process.wait()
        raise
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
