"""`mreg new`."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from registry import output
from registry.commands._options import json_option, registry_option


@click.command("new")
@click.argument("name")
@click.option("--recipe", default="", metavar="RECIPE", help="Trainer [default: nnunet; pretrain if the name says it].")
@click.option(
    "--dir",
    "parent",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(),
    metavar="DIR",
    help="Folder that the repository's folder goes into [default: here].",
)
@click.option(
    "--local", is_flag=True, help="Only on this machine; the same command without it adds the registry's part."
)
@click.option("--licence", default="", metavar="SPDX", help="MIT, Apache-2.0 or CC-BY-4.0 [default: MIT].")
@click.option(
    "--author", "authors", multiple=True, metavar="NAME", help="Who is to be cited; several times for several."
)
@registry_option
@json_option
def command(
    name: str,
    recipe: str,
    parent: Path,
    local: bool,
    licence: str,
    authors: tuple[str, ...],
    registry: str | None,
    as_json: bool,
) -> None:
    """Create a model's repository from its name.

    Writes the model card, model.toml, licence, citation and workflows as one Git commit, and creates the repository in
    the registry. Run it again after any interruption: it completes what is half made and changes nothing else.

    \b
    Examples:
      mreg new model_seg_sc_t2
      mreg new model_seg_sc_t2 --local --author "Ada Lovelace"
      mreg new model_seg_sc_t2 --registry dir:/srv/models --dir ~/models
    """
    from registry.scaffold import create
    from registry.stores import open_store

    store = None if local else open_store(registry)
    created = create(name, parent, store=store, recipe=recipe, licence=licence, authors=authors)
    if not created.made:
        output.say(f"{created.repo.root}: already there")
    if as_json:
        output.document(
            {"name": name, "path": str(created.repo.root), "created": created.made, "url": created.url or None}
        )
        return
    output.answer(created.repo.root)
    kind = "--classify COLUMN" if created.repo.toml.train.recipe == "classification" else "--contrast T2w"
    output.next_step(
        f"cd {shlex.quote(str(created.repo.root))}",
        f"mreg data import BIDS data/raw --dataset-id 501 {kind}",
    )
