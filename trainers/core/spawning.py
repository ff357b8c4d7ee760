"""One training in several processes of this machine, one a GPU; what the first one is told, they are told."""

from __future__ import annotations

import os
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import multiprocessing
from torch.multiprocessing.spawn import ProcessException, ProcessRaisedException, spawn

from trainers.core.distributed import join
from trainers.core.environment import cpu_count
from trainers.core.errors import TrainingError
from trainers.core.progress import Progress
from trainers.core.stopping import Stopping

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from trainers.core.distributed import Ranks

SECONDS_BETWEEN_LOOKS = 0.5


class Told(Stopping):
    """Stops when the process that started this one says so: a signal could come before it can be taken."""

    def __init__(self, event: Any) -> None:
        super().__init__()
        self._event = event

    def reason(self) -> str:
        """Return why the loop should stop now, "" while it may go on."""
        return super().reason() or ("the process that started this one" if self._event.is_set() else "")


def in_processes(count: int, work: Callable[..., None], arguments: tuple[Any, ...], stopping: Stopping) -> None:
    """Call `work(*arguments, stopping)` in `count` processes with torchrun's variables set, and wait for them all.

    A stop is passed on: the processes finish their step and save. Raises the `TrainingError` that one of them raises,
    one where a process is killed, and what torch raises for any other error; the other processes are ended then.
    """
    context = multiprocessing.get_context("spawn")
    told, errors = context.Event(), context.SimpleQueue()
    started = (count, _free_port(), told, errors, work, arguments)
    processes = spawn(_start, args=started, nprocs=count, join=False)  # type: ignore[no-untyped-call]
    try:
        while not processes.join(timeout=SECONDS_BETWEEN_LOOKS):
            if stopping.reason():
                told.set()
    except ProcessException as error:
        if not errors.empty():
            message, hint = errors.get()
            raise TrainingError(message, hint=hint) from None
        if isinstance(error, ProcessRaisedException):
            raise
        hint = "if memory ran out, try a smaller batch_size; run the same command again: it goes on where it saved"
        raise TrainingError(f"training in {count} processes: {error}", hint=hint) from None


@contextmanager
def share(device: torch.device) -> Iterator[tuple[Ranks, torch.device, Progress]]:
    """Join the other processes: give this one's place, its own device, and the talk, which the first one alone has.

    Raises `TrainingError` where the machine has fewer GPUs than there are processes.
    """
    count = int(os.environ["WORLD_SIZE"])
    there = {"cuda": torch.cuda.device_count(), "mps": 1}.get(device.type, count)
    if count > there:
        raise TrainingError(f"--gpus {count}: this machine has {there}", hint=f"--gpus {there}")
    torch.set_num_threads(max(1, cpu_count() // count) if device.type == "cpu" else 1)
    with (
        open(os.devnull, "w", encoding="utf-8") as null,  # noqa: PTH123 - a device, not a file of ours
        join(device) as (ranks, own),
    ):
        yield ranks, own, Progress(None if ranks.first else null)


def _start(
    rank: int, count: int, port: int, told: Any, errors: Any, work: Callable[..., None], arguments: tuple[Any, ...]
) -> None:
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({key: str(value) for key, value in place.items()})
    with Told(told) as stopping:
        try:
            work(*arguments, stopping)
        except TrainingError as error:
            errors.put((error.message, error.hint))
            raise SystemExit(1) from None


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port
