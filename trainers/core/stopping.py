"""When a training must end before its time: a signal from a scheduler or a person, or a time limit."""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import TYPE_CHECKING, Any, ClassVar, Self

if TYPE_CHECKING:
    from types import FrameType, TracebackType

# Ahead of a job's end Slurm sends what --signal asks for, mostly SIGUSR1; submitit asks for SIGUSR2.
SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1", "SIGUSR2") if hasattr(signal, name))


class Stopped(Exception):  # noqa: N818 - nothing went wrong
    """A training ended before its time, as it was told to; everything is saved."""


class Stopping:
    """Within its context a signal asks the loop to finish its step and save; a second Ctrl-C ends at once.

    Other signals come twice when a scheduler sends them to all processes of a job and the command passes them on.

    >>> with Stopping(minutes=0) as stopping:
    ...     stopping.reason()
    'the time limit of 0 minutes'
    """

    active: ClassVar[Stopping | None] = None  # the one whose context the process is in

    def __init__(self, minutes: float | None = None, *, since: float | None = None) -> None:
        self.minutes = minutes  # from `since` on, a moment of time.monotonic(); from now on where there is none
        self._signal: int | None = None
        self._process = os.getpid()
        self._before: dict[int, Any] = {}
        self._outer: Stopping | None = None
        since = time.monotonic() if since is None else since
        self._deadline = None if minutes is None else since + 60 * minutes

    def __enter__(self) -> Self:
        """Take over the signals."""
        self._outer, Stopping.active = Stopping.active, self
        for number in SIGNALS:
            self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the signals back."""
        Stopping.active = self._outer
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @property
    def signalled(self) -> bool:
        """Whether a signal came."""
        return self._signal is not None

    def reason(self) -> str:
        """Return why the loop should stop now, "" while it may go on."""
        if self._signal is not None:
            return signal.Signals(self._signal).name
        if self._deadline is not None and time.monotonic() >= self._deadline:
            return f"the time limit of {self.minutes:g} minutes"
        return ""

    @classmethod
    def check(cls) -> None:
        """Raise `Stopped` where a signal came to the training that the process is in; its loop looks at the time."""
        if cls.active and cls.active.signalled:
            raise Stopped(cls.active.reason())

    def _receive(self, number: int, _: FrameType | None) -> None:
        if os.getpid() != self._process:  # one that a library has forked: its pool waits until it ends
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        if self._signal is not None and number == signal.SIGINT:
            sys.exit(128 + number)
        self._signal = number
