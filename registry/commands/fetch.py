"""`mreg fetch`."""

from __future__ import annotations

from pathlib import Path

import click

from registry import output
from registry.commands._options import json_option, registry_option


@click.command("fetch")
@click.argument("refs", metavar="REF...", nargs=-1, required=True)
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Folder to write to [default: the cache].",
)
@click.option("--unpack", is_flag=True, help="Unpack, and print the folder instead of the archive.")
@click.option("--asset", default="", metavar="NAME", help="Which file of a release that has several archives.")
@registry_option
@json_option
def command(
    refs: tuple[str, ...], out: Path | None, unpack: bool, asset: str, registry: str | None, as_json: bool
) -> None:
    """Download released models.

    REF is NAME (newest release), NAME@TAG, or the path or https address of an archive. Downloads are verified and
    resumed; the cache is MREG_CACHE, else ~/.cache/mreg. Prints one path for each REF.

    \b
    Examples:
      mreg fetch model_seg_sc_t2
      mreg fetch model_seg_sc_t2@r20260131 -o models --unpack
      mreg fetch https://example.org/model_seg_sc_t2-r20260131.zip
    """
    from registry.download import fetch_all

    fetched = fetch_all(refs, registry, out=out, do_unpack=unpack, asset=asset)
    if as_json:
        output.document([item.as_json() for item in fetched])
    else:
        for item in fetched:
            output.answer(item.path)
