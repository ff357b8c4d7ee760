"""`mreg list`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from registry import output
from registry.commands._options import json_option, registry_option
from registry.commands._tables import aligned
from registry.vocabulary import load_vocabulary

if TYPE_CHECKING:
    from collections.abc import Callable

    from registry.models import ModelSummary


def _field_options(function: Callable[..., None]) -> Callable[..., None]:
    """Add an option for each field of a name."""
    for field in reversed(load_vocabulary().fields):
        function = click.option(f"--{field}", metavar="WORD", help=f"Only models of this {field}.")(function)
    return function


@click.command("list")
@click.argument("words", metavar="[WORD]...", nargs=-1)
@_field_options
@click.option("--all", "include_all", is_flag=True, help="Also repositories whose names are no model's.")
@registry_option
@json_option
def command(
    words: tuple[str, ...], include_all: bool, registry: str | None, as_json: bool, **fields: str | None
) -> None:
    """List the registry's models.

    Each WORD must be in the name, the description or the labels. Options ask for fields of the name, whose defaults
    count: --anatomy sc finds model_seg_t2. Several words with hyphens must all be there.

    \b
    Examples:
      mreg list
      mreg list lesion mouse
      mreg list --task seg --anatomy gm-wm
      mreg list --registry dir:/srv/models --json
    """
    from registry.models import summaries
    from registry.stores import open_store

    wanted: dict[str, str] = {name: word for name, word in fields.items() if word}
    found = list(summaries(open_store(registry), wanted, words=words, include_all=include_all))
    if as_json:
        output.document([summary.as_json() for summary in found])
    elif found:
        output.answer(_table(found))
    else:
        output.say("no model" + " that fits" * bool(wanted or words))


def _table(found: list[ModelSummary]) -> str:
    rows = [("name", "release", "date", "orientation", "labels", "description")]
    for summary in found:
        tag, date = (summary.release.tag, summary.release.published_at[:10]) if summary.release else ("-", "-")
        if summary.yanked:
            tag += f" (yanked: {', '.join(yanked for yanked, _ in summary.yanked)})"
        labels = " ".join(summary.labels) or "-"
        rows.append((summary.name, tag, date, summary.orientation or "-", labels, summary.description))
    # On a terminal a description gives way; elsewhere a line is read by a program, or wrapped by somebody's editor.
    head, *lines = aligned(rows, width=output.width())
    return "\n".join([click.style(head, dim=True), *lines])
