"""What a training will cost, from its first steps: time for an epoch and for all, and memory."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import torch

from trainers.core.environment import free_memory, peak_memory

if TYPE_CHECKING:
    from trainers.core.progress import Progress

MEASURED_STEPS = 3
VALIDATION = 1 / 3  # of a step's time: forward, and not backward
GIB = 1 << 30


class Estimate:
    """Says after `MEASURED_STEPS` steps, not counting the first, what an epoch and the rest will take; once."""

    def __init__(
        self, progress: Progress, device: torch.device, *, iterations: int, epochs_left: float, validations: int = 0
    ) -> None:
        self._progress, self._device = progress, device
        self._steps, self._epochs = iterations + VALIDATION * validations, epochs_left
        self._starts: list[float] = []

    def step(self) -> None:
        """Call when a step has ended."""
        if len(self._starts) > MEASURED_STEPS:
            return
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        self._starts.append(time.monotonic())
        if len(self._starts) == MEASURED_STEPS + 1:
            seconds = (self._starts[-1] - self._starts[0]) / MEASURED_STEPS
            epoch = seconds * self._steps
            self._progress.say(
                f"about {duration(epoch)} an epoch ({seconds:.2g} s a step), {duration(epoch * self._epochs)} in all; "
                f"{memory(self._device)}"
            )


def memory(device: torch.device) -> str:
    """Say how much memory was needed at most, and how much there is on a GPU."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        most = torch.cuda.max_memory_reserved(device)
        return f"{most / GIB:.1f} of {total / GIB:.0f} GiB of GPU memory used, {free / GIB:.1f} free"
    left = free_memory()
    used = f"{peak_memory() / GIB:.1f} GiB of memory used"
    return used if left is None else f"{used}, {left / GIB:.1f} free"


def duration(seconds: float) -> str:
    """Return a time as people say it.

    >>> duration(90), duration(5400), duration(200000)
    ('90 s', '90 min', '56 h')
    """
    for size, name in ((3600.0, "h"), (60.0, "min")):
        if seconds >= 2 * size or (name == "min" and seconds >= 100):  # noqa: PLR2004
            return f"{seconds / size:.0f} {name}"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"  # noqa: PLR2004
