"""`mreg draft`."""

from __future__ import annotations

from pathlib import Path

import click

from registry import output
from registry.commands._options import out_option, registry_option


@click.group("draft")
def command() -> None:
    """Fetch and publish a draft, as the release workflow does.

    People need it only where the workflow of a repository cannot be used. GitHub shows drafts to tokens with
    contents: write only.

    \b
    Examples:
      mreg draft fetch model_seg_sc_t2@r20260131 -o draft > checksums
      mreg draft publish model_seg_sc_t2@r20260131 --checksums checksums
    """


@command.command("fetch", short_help="Download a draft's files and print their checksums.")
@click.argument("draft", metavar="NAME@TAG")
@out_option("DIR", "Folder of the files.", required=True)
@click.option(
    "--github-output",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Append checksums, archives and previous as a job's outputs.",
)
@registry_option
def fetch(draft: str, out: Path, github_output: Path | None, registry: str | None) -> None:
    """Download a draft's files, compare them, and print their checksums.

    The manifest says what they should be.

    \b
    Example:
      mreg draft fetch model_seg_sc_t2@r20260131 -o draft > checksums
    """
    from registry import drafts
    from registry.stores import open_store

    fetched = drafts.fetch(draft, open_store(registry), out)
    if github_output:
        with github_output.open("a", encoding="utf-8") as file:
            file.write(fetched.job_outputs())
    output.answer(fetched.checksums)


@command.command("publish")
@click.argument("draft", metavar="NAME@TAG")
@click.option(
    "--checksums",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    metavar="FILE",
    required=True,
    help="What mreg draft fetch printed; a draft that has changed since is not published.",
)
@click.option(
    "--provenance",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    metavar="FILE",
    help="Sigstore bundle that attests the archives, to be attached to each.",
)
@click.option(
    "--summary",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Append a table of the files in Markdown.",
)
@registry_option
def publish(draft: str, checksums: Path, provenance: Path | None, summary: Path | None, registry: str | None) -> None:
    """Publish a draft with exactly the files that were checked.

    \b
    Example:
      mreg draft publish model_seg_sc_t2@r20260131 --checksums checksums
    """
    from registry import drafts
    from registry.stores import open_store

    release = drafts.publish(draft, open_store(registry), checksums.read_text(encoding="utf-8"), provenance)
    if summary:
        with summary.open("a", encoding="utf-8") as file:
            file.write(drafts.summary(release))
    output.answer(release.url)
