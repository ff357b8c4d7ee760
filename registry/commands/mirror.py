"""`mreg mirror`."""

from __future__ import annotations

import click

from registry import output
from registry.commands._options import json_option, registry_option


@click.command("mirror")
@click.argument("ref", metavar="REF")
@click.option("--to", required=True, metavar="PLACE", help="dir:PATH, zenodo[:URL] or osf[:URL].")
@click.option("--url", default="", metavar="URL", help="Public address of the folder dir:PATH, if it has one.")
@click.option("--creator", "creators", multiple=True, metavar="NAME", help="Creator on Zenodo [default: model.toml].")
@registry_option
@json_option
def command(ref: str, to: str, url: str, creators: tuple[str, ...], registry: str | None, as_json: bool) -> None:
    """Copy a release to a second place.

    The files are verified, sent and compared, and the addresses written into the release's notes, where fetch finds
    them when the registry fails. A folder becomes a registry of its own: --registry dir:PATH. Tokens: ZENODO_TOKEN
    (deposit:write, deposit:actions), OSF_TOKEN (osf.full_write). A record on Zenodo is for ever. Run it again after an
    interruption: it continues.

    \b
    Examples:
      mreg mirror model_seg_sc_t2 --to dir:/media/disk/models
      mreg mirror model_seg_sc_t2@r20260131 --to zenodo
      mreg mirror model_seg_sc_t2 --to osf:https://osf.io/abc12
    """
    from registry.mirror import mirror

    done = mirror(ref, to, registry, url=url, creators=creators)
    if as_json:
        output.document(done.as_json())
        return
    output.say(f"{done.ref}: copied to {done.place}" + ("" if done.changed else ", notes as before"))
    for address in done.urls.values():
        output.answer(address)
