"""Work that is done once for each case, several at a time."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TYPE_CHECKING, TypeVar

from threadpoolctl import threadpool_limits

from trainers.core.environment import cpu_count
from trainers.core.errors import TrainingError

if TYPE_CHECKING:
    from collections.abc import Callable

Result = TypeVar("Result")


def each_case(
    work: Callable[[str], Result],
    cases: list[str],
    threads: int,
    advance: Callable[..., None],
    failed: Callable[[str, TrainingError], None] | None = None,
) -> dict[str, Result]:
    """Do the work for every case, several at once; report all cases that cannot be used, after the others are done.

    With `failed`, which is called for each of them, these are left out of the results and nothing is raised.
    Threads are enough: unpacking, matrix products and compression all release Python's lock.
    """
    results, errors = {}, {}
    with threadpool_limits(max(1, cpu_count() // threads)), ThreadPoolExecutor(threads) as pool:
        futures = {pool.submit(work, case): case for case in cases}
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
