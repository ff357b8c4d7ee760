"""`mreg doctor`."""

from __future__ import annotations

from dataclasses import asdict

import click

from registry import output
from registry.commands._options import json_option, registry_option

SIGNS = {"good": ("ok", "green"), "missing": ("--", "yellow"), "bad": ("!!", "red")}


@click.command("doctor")
@registry_option
@json_option
@click.pass_context
def command(context: click.Context, registry: str | None, as_json: bool) -> None:
    """Tell what is missing on this machine, and what mends it.

    Looks at Python, the training packages, the device and its memory, disk, Git, the registry and what the token may
    do. Exit status 1 if something is broken; what is only not there (a GPU, a token) is no error.

    \b
    Examples:
      mreg doctor
      mreg doctor --registry dir:models --json
    """
    from registry.doctor import examine

    points = examine(registry)
    if as_json:
        output.document([asdict(point) for point in points])
    else:
        width = max(len(point.name) for point in points)
        for point in points:
            sign, colour = SIGNS[point.state]
            output.answer(f"{click.style(sign, fg=colour)} {point.name:<{width}}  {point.found}")
            if point.mend:
                output.answer(f"   {'':<{width}}  → {click.style(point.mend, bold=True)}")
    context.exit(1 if any(point.state == "bad" for point in points) else 0)
