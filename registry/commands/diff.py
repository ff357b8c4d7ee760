"""`mreg diff`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from registry import output
from registry.commands._options import json_option, registry_option

if TYPE_CHECKING:
    from registry.changes import Change

CLASSES = {True: ("breaking", "red"), False: ("compatible", "green")}


@click.command("diff")
@click.argument("old", metavar="OLD")
@click.argument("new", metavar="NEW")
@registry_option
@json_option
def command(old: str, new: str, registry: str | None, as_json: bool) -> None:
    """Tell what changed between two releases.

    OLD and NEW are NAME (newest release), NAME@TAG, or the path or address of an archive, run or repo. Each change is
    breaking or compatible for those who have SCT installed, with the reason. Of a release with a manifest nothing but
    the manifest is read, and the small files of its archive where the plans changed.

    \b
    Examples:
      mreg diff model_seg_sc_t2@r20240915 model_seg_sc_t2
      mreg diff model_seg_sc_t2 dist/r20261121/model_seg_sc_t2-r20261121.zip
      mreg diff model_seg_sc_t2@r20240915 model_seg_sc_t2 --json
    """
    from registry import differences, snapshot_sources

    before, after = (snapshot_sources.read(ref, registry) for ref in (old, new))
    found = differences.compare(before, after, registry)
    if as_json:
        compatible = not any(change.breaking for change in found)
        changes = [change.as_json() for change in found]
        output.document({"old": before.title, "new": after.title, "compatible": compatible, "changes": changes})
        return
    output.answer(f"{before.title} → {after.title}")
    if sys.stdout.isatty():
        _table(found)
    else:
        _lines(found)
    breaking = sum(change.breaking for change in found)
    output.answer(f"{breaking} breaking, {len(found) - breaking} compatible" if found else "nothing changed")


def _lines(found: list[Change]) -> None:
    for change in found:
        word, _ = CLASSES[change.breaking]
        model = f"{change.model}: " if change.model else ""
        output.answer(f"{word:<10}  {change.code}  {model}{change.what}: {change.step}")
        output.answer(f"                       {change.meaning}")


def _table(found: list[Change]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    if not found:
        return
    table = Table("", "change", "old → new", "what it means", box=box.SIMPLE_HEAD, pad_edge=False)
    for change in found:
        word, colour = CLASSES[change.breaking]
        head = Text.assemble(change.what, (f"\n{change.model}" * bool(change.model), "dim"))
        said = Text.assemble((word, colour), (f"\n{change.code}", "dim"))
        table.add_row(said, head, Text(change.step), Text(change.meaning))
    Console().print(table)
