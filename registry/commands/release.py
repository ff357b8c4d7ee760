"""`mreg release`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Literal

import click

from registry import output
from registry.commands._options import json_option, registry_option


@click.command("release")
@click.argument("repo", type=click.Path(path_type=Path), default=Path())
@click.option(
    "--run",
    type=click.Path(path_type=Path),
    metavar="RUN",
    help="Folder of the run [default: the newest complete one].",
)
@click.option("--tag", default="", metavar="TAG", help="Tag of the release [default: rYYYYMMDD of today].")
@click.option(
    "--layout",
    type=click.Choice(["root", "dataset"]),
    default=None,
    help="Trainer folder at the archive's root, or in DatasetNNN_Name/ [default: model.toml].",
)
@click.option("--half", is_flag=True, help="Store the weights in half precision.")
@click.option("--per-fold/--one-archive", default=None, help="An archive of each fold [default: model.toml].")
@click.option("--no-reference", is_flag=True, help="Do not run the archive for the manifest's reference output.")
@click.option(
    "--sign",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="KEY",
    help="Sign the manifest with this Ed25519 key of OpenSSH.",
)
@click.option("--dry-run", is_flag=True, help="Say what would be done; write nothing.")
@click.option("--draft", is_flag=True, help="Stop before the publication.")
@click.option(
    "--publish-with",
    type=click.Choice(["actions", "direct"]),
    default=None,
    help="Who publishes: the repository's workflow, or this machine [default: actions where it can be started].",
)
@registry_option
@json_option
def command(
    repo: Path,
    run: Path | None,
    tag: str,
    layout: str | None,
    half: bool,
    per_fold: bool | None,
    no_reference: bool,
    sign: Path | None,
    dry_run: bool,
    draft: bool,
    publish_with: Literal["actions", "direct"] | None,
    registry: str | None,
    as_json: bool,
) -> None:
    """Publish a model's archive as a release.

    Checks, packs, uploads to a draft, compares digests, publishes and reads back. After any interruption run it again:
    it continues. A published file is never replaced. With Actions the repository's workflow checks the draft on a clean
    machine, attests who built it and publishes it; this command waits for it and says what stopped it.

    \b
    Examples:
      mreg release --dry-run
      mreg release --tag r20260131
      mreg release path/to/model_seg_sc_t2 --registry dir:/srv/models
    """
    from registry.model_toml import find_repo
    from registry.releases import release_path

    outcome = release_path(
        repo,
        registry,
        run=run,
        tag=tag,
        layout=layout or "",
        half=half,
        per_fold=per_fold,
        reference=not no_reference,
        dry_run=dry_run,
        draft=draft,
        by=publish_with or "auto",
        sign=sign,
    )
    if as_json:
        output.document(outcome.as_json())
    elif dry_run:
        output.answer("\n".join(outcome.plan))
    else:
        output.answer(outcome.url)
        if outcome.published:
            place = f" --registry {shlex.quote(registry)}" if registry else ""
            output.next_step(f"mreg sct {find_repo(repo).name}@{outcome.tag}{place}")
