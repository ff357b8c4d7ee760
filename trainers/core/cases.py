"""Work that is done once for each case, several at a time."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from threadpoolctl import threadpool_limits

from trainers.core.environment import cpu_count, free_memory
from trainers.core.errors import TrainingError
from trainers.core.stopping import Stopping

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Result = TypeVar("Result")
SHARE = 0.8  # of the memory that is free when the work begins


class Room:
    """Memory that the cases at work share: one waits until there is enough for it, or until it is the only one."""

    def __init__(self, nbytes: int | None) -> None:
        self._all = self._free = nbytes
        self._changed = threading.Condition()

    @contextmanager
    def of(self, nbytes: int) -> Iterator[None]:
        """Hold that much memory meanwhile."""
        if self._all is None or self._free is None:
            yield
            return
        held = min(nbytes, self._all)
        with self._changed:
            self._changed.wait_for(lambda: self._free is not None and self._free >= held)
            self._free -= held
        try:
            yield
        finally:
            with self._changed:
                self._free += held
                self._changed.notify_all()


def each_case(
    work: Callable[[str], Result],
    cases: list[str],
    threads: int,
    advance: Callable[..., None],
    failed: Callable[[str, TrainingError], None] | None = None,
    nbytes: Callable[[str], int] | None = None,
) -> dict[str, Result]:
    """Do the work for every case, several at once; report all cases that cannot be used, after the others are done.

    With `failed`, which is called for each of them, these are left out of the results and nothing is raised. With
    `nbytes`, which tells about how much memory a case takes, no more of them are at work than free memory holds.
    Threads are enough: unpacking, matrix products and compression all release Python's lock. What ends the process, or
    a signal to the training that this is a part of (`Stopped`), waits for the cases at work alone.
    """
    results, errors = {}, {}
    free = free_memory() if nbytes else None
    room, ending = Room(None if free is None else int(SHARE * free)), threading.Event()

    def one(case: str) -> Result:
        with room.of(nbytes(case) if nbytes else 0):
            if ending.is_set():
                raise TrainingError(f"{case}: not begun")
            return work(case)

    with threadpool_limits(max(1, cpu_count() // threads)), ThreadPoolExecutor(threads) as pool:
        futures = {pool.submit(one, case): case for case in cases}
        try:
            for future in as_completed(futures):
                case = futures[future]
                try:
                    results[case] = future.result()
                except TrainingError as error:
                    errors[case] = error
                except MemoryError as error:
                    errors[case] = TrainingError(f"{case}: not enough memory", hint="fewer threads or a larger machine")
                    errors[case].__cause__ = error
                advance(case)
                Stopping.check()
        except BaseException:
            ending.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    if failed:
        for case, found in sorted(errors.items()):
            failed(case, found)
    elif errors:
        first = errors[min(errors)]
        if len(errors) == 1:
            raise first
        listed = "\n".join(f"  {case}: {error.message}" for case, error in sorted(errors.items()))
        raise TrainingError(f"{len(errors)} of {len(cases)} cases cannot be used:\n{listed}", hint=first.hint)
    return results
