"""What a long job tells: bars on a terminal, one line a stage elsewhere; always on stderr."""

from __future__ import annotations

import os
import sys
import time
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# Off a terminal, a line at most this often: a log of 1000 epochs stays readable.
SECONDS_BETWEEN_LINES = 30.0


class Progress:
    """Stages and bars on a stream."""

    def __init__(self, stream: IO[str] | None = None) -> None:
        self.console = Console(file=stream or sys.stderr, soft_wrap=True, highlight=False)
        self._last_line = -SECONDS_BETWEEN_LINES

    @property
    def live(self) -> bool:
        """Whether bars are drawn: a job of CI may have a terminal, where their codes would hide what follows."""
        return self.console.is_interactive and not os.environ.get("CI")

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage and say so when it has ended."""
        start = time.monotonic()
        yield
        self.say(f"{name}: {time.monotonic() - start:.1f} s")

    @contextmanager
    def bar(self, title: str, total: int, completed: int = 0) -> Iterator[Callable[..., None]]:
        """Give `advance(text="", steps=1)`, to be called as the work goes on; `text` is shown beside the bar."""
        if not self.live:
            yield lambda text="", steps=1: self._line(text)  # noqa: ARG005 - the terminal's half counts them
            return
        columns = (
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
            TimeRemainingColumn(), TextColumn("{task.fields[text]}"),
        )  # fmt: skip
        with RichProgress(*columns, console=self.console, redirect_stdout=False, redirect_stderr=False) as bars:
            task = bars.add_task(title, total=total, completed=completed, text="")

            def advance(text: str = "", steps: int = 1) -> None:
                if text:
                    bars.update(task, text=text)
                bars.advance(task, steps)

            yield advance

    def say(self, text: str) -> None:
        """Print a line."""
        self.console.print(text, markup=False)

    def _line(self, text: str) -> None:
        now = time.monotonic()
        if text and now - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = now
            self.say(text)
