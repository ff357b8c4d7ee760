"""`mreg fetch`."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import click

from registry import output
from registry.commands._options import json_option, out_option, registry_option

if TYPE_CHECKING:
    from pathlib import Path


@click.command("fetch")
@click.argument("refs", metavar="REF...", nargs=-1, required=True)
@out_option("DIR", "Folder to write to [default: the cache].")
@click.option("--unpack", is_flag=True, help="Unpack, and print the folder instead of the archive.")
@click.option("--asset", default="", metavar="NAME", help="Which file of a release that has several archives.")
@click.option("--offline", is_flag=True, help="Only what is in the cache, or a path [also: MREG_OFFLINE=1].")
@registry_option
@json_option
def command(
    refs: tuple[str, ...],
    out: Path | None,
    unpack: bool,
    asset: str,
    offline: bool,
    registry: str | None,
    as_json: bool,
) -> None:
    """Download released models.

    REF is NAME (newest release that is not yanked), NAME@TAG, or the path or https address of an archive. Downloads
    are verified, resumed, and taken from a mirror where the registry fails; the cache is MREG_CACHE, else
    ~/.cache/mreg. Prints one path for each REF.

    \b
    Examples:
      mreg fetch model_seg_sc_t2
      mreg fetch model_seg_sc_t2@r20260131 -o models --unpack
      mreg fetch model_seg_sc_t2 --offline
      mreg fetch https://example.org/model_seg_sc_t2-r20260131.zip
    """
    from registry.download import fetch_all

    fetched = fetch_all(refs, registry, out=out, do_unpack=unpack, asset=asset, offline=offline)
    if as_json:
        output.document([item.as_json() for item in fetched])
    else:
        for item in fetched:
            output.answer(item.path)
        place = f" --registry {shlex.quote(registry)}" if registry and not unpack else ""
        model = str(fetched[0].path) if unpack else refs[0]
        output.next_step(f"mreg predict {shlex.quote(model)} IMAGE.nii.gz -o predictions{place}")
