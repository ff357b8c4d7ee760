"""What a person or a program reads: answers go to stdout, talk and progress to stderr."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.status import Status

_spinning: list[Status] = []  # at most one: a stage within a stage has a line, and no spinner of its own


def answer(text: object = "") -> None:
    """Print a line of the answer."""
    click.echo(str(text))


def document(value: Any) -> None:
    """Print the answer as exactly one JSON document."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def say(text: str) -> None:
    """Tell the user something that is not the answer."""
    _tell(text)


def warn(text: str) -> None:
    """Tell the user something that they should look at."""
    _tell(f"{click.style('warning:', fg='yellow')} {text}")


def _tell(text: str) -> None:
    """Print a line on stderr, above a spinner if there is one."""
    with pause():
        click.echo(text, err=True)


def next_step(*commands: str) -> None:
    """Tell a person at the terminal what usually comes next; a log is not told."""
    if is_terminal():
        for number, command in enumerate(commands):
            click.echo(f"{click.style('then:' if number else 'next:', fg='cyan')} {command}", err=True)


def is_terminal() -> bool:
    """Whether a person is watching stderr; a job of CI may have a terminal, and only a log behind it."""
    return sys.stderr.isatty() and not os.environ.get("CI")


def width() -> int | None:
    """Return the columns of the terminal that shows the answer; None where none does."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def ask_secret(question: str) -> str:
    """Ask a person at the terminal for something that nobody may see."""
    answered: str = click.prompt(question, hide_input=True, err=True)
    return answered


@contextmanager
def pause() -> Iterator[None]:
    """Take the spinner from the terminal while something else writes there, such as another process."""
    for spinner in _spinning:
        spinner.stop()
    try:
        yield
    finally:
        for spinner in _spinning:
            spinner.start()


@contextmanager
def stage(title: str) -> Iterator[None]:
    """Announce a long step; a spinner on a terminal, one line with its duration elsewhere."""
    start = time.monotonic()
    if is_terminal() and not _spinning:
        from rich.console import Console

        with Console(stderr=True).status(title) as spinner:
            _spinning.append(spinner)
            try:
                yield
            finally:
                _spinning.clear()
    else:
        yield
    say(f"{title}: {time.monotonic() - start:.1f} s")


@contextmanager
def byte_progress(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """Give a function that takes the number of bytes just moved; a bar on a terminal, one line elsewhere."""
    if not is_terminal():
        start = time.monotonic()
        yield lambda _: None
        seconds = max(time.monotonic() - start, 1e-9)
        say(f"{title}: {total / 1e6:.1f} MB, {total / 1e6 / seconds:.0f} MB/s")
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with pause(), Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(title, total=total)
        yield lambda count: progress.update(task, advance=count)


@contextmanager
def count_progress(title: str, total: int) -> Iterator[Callable[[], None]]:
    """Give a function to call after each item; a bar on a terminal, one line with the duration elsewhere."""
    start = time.monotonic()
    if is_terminal():
        from rich.console import Console
        from rich.progress import Progress

        with pause(), Progress(console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task(title, total=total)
            yield lambda: progress.advance(task)
    else:
        yield lambda: None
    say(f"{title}: {time.monotonic() - start:.1f} s")
