"""`mreg sct`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from registry import output
from registry.commands._options import json_option, registry_option

if TYPE_CHECKING:
    from collections.abc import Iterator

    from registry.sct import Integration
    from registry.sct_conditions import Verdict

COLOURS = {"pass": "green", "fail": "red", "not read": "yellow", "not asked": "bright_black"}
WIDTH = 9  # of the widest state


@click.command("sct")
@click.argument("ref", metavar="REF|ARCHIVE|URL")
@click.option("--full", is_flag=True, help="Read all of an archive that is not on this machine, its weights too.")
@registry_option
@json_option
@click.pass_context
def command(context: click.Context, ref: str, full: bool, registry: str | None, as_json: bool) -> None:
    """Show what the Spinal Cord Toolbox will do with a release.

    Each of SCT's conditions with pass or fail, the endings of the files that it will write, and what SCT's developers
    have to add: the entries of MODELS and TASKS, a test, a page of the documentation, and the line with which a tester
    installs it. The exit status is 1 where a condition is broken.

    \b
    Examples:
      mreg sct model_seg_sc_t2
      mreg sct model_seg_sc_t2@r20260131 --full
      mreg sct dist/r20260131/model_seg_sc_t2-r20260131.zip
      mreg sct https://example.org/model_seg_sc_t2-r20260131.zip
    """
    from registry import sct

    found = sct.integrate(ref, registry, full=full)
    if as_json:
        output.document(found.as_json())
    else:
        for line in _lines(found):
            output.answer(line)
    context.exit(0 if found.ok else 1)


def _lines(found: Integration) -> Iterator[str]:
    from registry import sct

    entry = found.entry
    for verdict in found.verdicts:
        yield from _condition(verdict)
    yield f"{found.name}{f'@{found.tag}' * bool(found.tag)}: {_summary(found)}"
    yield from _section("Files that SCT writes beside IMAGE.nii.gz")
    for suffix in entry.suffixes:
        yield f"IMAGE{suffix}.nii.gz"
    yield from _section(sct.MODELS_FILE)
    yield _python(entry.python())
    yield from _section(sct.TEST_FILE)
    yield _python(entry.test())
    yield from _section(f"{sct.PAGE_FOLDER}/{entry.task}.rst")
    yield entry.documentation()
    yield from _section("For testers, who have an SCT with this task")
    yield entry.install()


def _condition(verdict: Verdict) -> Iterator[str]:
    codes = f"  {click.style(', '.join(verdict.codes), dim=True)}" if verdict.codes else ""
    yield f"{click.style(f'{verdict.state:<{WIDTH}}', fg=COLOURS[verdict.state])}  {verdict.title}{codes}"
    for reason in verdict.reasons:
        yield f"{'':<{WIDTH}}    {click.style(reason, dim=verdict.state != 'fail')}"


def _summary(found: Integration) -> str:
    counts = {state: sum(v.state == state for v in found.verdicts) for state in COLOURS}
    unread = f"; {counts['not read']} need the weights: --full reads them" if counts["not read"] else ""
    if counts["fail"]:
        number = counts["fail"]
        verb = "condition is" if number == 1 else "conditions are"
        return click.style(f"{number} {verb} broken: SCT cannot use it as it should", fg="red") + unread
    return click.style(f"{counts['pass']} conditions are met", fg="green") + unread


def _section(title: str) -> Iterator[str]:
    yield ""
    yield click.style(title, bold=True)


def _python(source: str) -> str:
    """Return Python source, coloured on a terminal; every line stays a line, so that it can be copied."""
    if not sys.stdout.isatty():
        return source
    from io import StringIO

    from rich.console import Console
    from rich.syntax import Syntax

    text = Syntax(source, "python", theme="ansi_dark", background_color="default").highlight(source)
    written = StringIO()
    Console(file=written, force_terminal=True).print(text, soft_wrap=True, end="")
    return written.getvalue().rstrip("\n")
