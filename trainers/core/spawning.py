"""One training in several processes of this machine, one a GPU; what the first one is told, they are told."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Any

from torch import multiprocessing
from torch.multiprocessing.spawn import spawn

from trainers.core.stopping import Stopping

if TYPE_CHECKING:
    from collections.abc import Callable

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

    A stop is passed on: the processes finish their step and save. Raises what torch raises when one of them fails; the
    others are ended then.
    """
    event = multiprocessing.get_context("spawn").Event()
    started = (count, _free_port(), event, work, arguments)
    processes = spawn(_start, args=started, nprocs=count, join=False)  # type: ignore[no-untyped-call]
    while not processes.join(timeout=SECONDS_BETWEEN_LOOKS):
        if stopping.reason():
            event.set()


def _start(rank: int, count: int, port: int, event: Any, work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({key: str(value) for key, value in place.items()})
    with Told(event) as stopping:
        work(*arguments, stopping)


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port
