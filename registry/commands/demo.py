"""`mreg demo`."""

from __future__ import annotations

from pathlib import Path

import click

from registry import output
from registry.commands._options import json_option


@click.command("demo")
@click.option("--data", type=click.Path(path_type=Path), metavar="BIDS", help="A BIDS tree, not the MNI152.")
@click.option(
    "--dir",
    "work",
    type=click.Path(path_type=Path),
    metavar="DIR",
    default=Path("demo"),
    show_default=True,
    help="Work folder.",
)
@json_option
def command(data: Path | None, work: Path, as_json: bool) -> None:
    """Run the whole chain on real MRI, offline.

    Names a model, imports data, trains, evaluates, checks, releases, fetches and predicts, each with the command
    that you would type, in a folder registry. Takes some minutes on two cores; run again, it continues.

    \b
    Examples:
      mreg demo
      mreg demo --data path/to/bids --dir cord-demo
    """
    from registry import demo

    result = demo.run(work, data)
    if as_json:
        output.document(result)
        return
    output.answer(demo.dice_table(result["dice"]))
    output.answer(f"archive: {result['archive']}")
    output.answer(f"picture: {result['picture']}")
