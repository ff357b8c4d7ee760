"""`mreg yank`."""

from __future__ import annotations

import click

from registry import output
from registry.commands._options import json_option, registry_option


@click.command("yank")
@click.argument("ref", metavar="NAME@TAG")
@click.option("--reason", default="", metavar="TEXT", help="Why nobody should use it; everybody will read it.")
@click.option("--undo", is_flag=True, help="It may be used again.")
@registry_option
@json_option
def command(ref: str, reason: str, undo: bool, registry: str | None, as_json: bool) -> None:
    """Withdraw a release, which stays downloadable.

    The reason is written into the release's notes. From then on fetch, list and show pass over the release where no
    tag is given, and warn where it is. Assets and manifest stay as they are.

    \b
    Examples:
      mreg yank model_seg_sc_t2@r20260131 --reason "left and right are swapped"
      mreg yank model_seg_sc_t2@r20260131 --undo
    """
    from registry.stores import open_store
    from registry.yank import yank

    if undo == bool(reason):
        raise click.UsageError("give either --reason TEXT or --undo")
    done = yank(ref, open_store(registry), reason=reason, undo=undo)
    if as_json:
        output.document(done.as_json())
        return
    state = f"yanked: {done.reason}" if done.reason else "may be used again"
    output.say(f"{done.ref}: {state}" + ("" if done.changed else " (as before: nothing to do)"))
    if done.reason:
        output.say(f"newest good release now: {done.next}" if done.next else "no good release is left")
    output.answer(done.url)
