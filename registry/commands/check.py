"""`mreg check`."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import click

from registry import output
from registry.commands._options import json_option, registry_option

if TYPE_CHECKING:
    from registry.findings import Report

FORMATS = ["text", "json", "github", "sarif", "markdown"]
COLOURS = {"error": "red", "warning": "yellow", "note": "blue"}


@click.command("check")
@click.argument("target", required=False)
@click.option("--against", metavar="REF", help="Tell also what changed since this release; latest: the newest one.")
@click.option("--data", is_flag=True, help="Read also the images of the repo's dataset.")
@click.option("--run", is_flag=True, help="Run the archive on an image as SCT would (needs torch).")
@click.option(
    "--image",
    type=click.Path(path_type=Path, exists=True),
    metavar="FILE",
    help="Image for --run, else a bundled one.",
)
@click.option("--full", is_flag=True, help="Read all of an archive at an address, its weights too.")
@click.option(
    "--format", "form", type=click.Choice(FORMATS), default="text", show_default=True, help="Form of the answer."
)
@click.option("--list-rules", is_flag=True, help="List the rules instead.")
@json_option
@registry_option
@click.pass_context
def command(
    context: click.Context,
    target: str | None,
    against: str | None,
    data: bool,
    run: bool,
    image: Path | None,
    full: bool,
    form: str,
    list_rules: bool,
    as_json: bool,
    registry: str | None,
) -> None:
    """Report everything that is wrong with a repo, dataset, run, archive or release.

    All findings in one go, each with its code, place and the way out. Nothing that is checked is executed, and torch is
    not needed (but for --run). Exit status 1 if a finding is an error.

    TARGET is a working copy, dataset, run or archive, the address of an archive (of which only what is small is read),
    a published release NAME@TAG, or a repository that is read without a clone: ORG/REPO, or ORG/REPO@BRANCH.

    \b
    Examples:
      mreg check                       # the repo that you stand in
      mreg check dist/r20261121/model_seg_sc_t2-r20261121.zip --against latest
      mreg check runs/3d_fullres-1a2b3c4d --json
      mreg check ivadomed/model_seg_sci
      mreg check model_seg_sci@r20240729
      mreg check . --format sarif > mreg.sarif
      mreg check --list-rules
    """
    from registry import checks

    form = "json" if as_json else form
    if list_rules:
        _list_rules(form)
        return
    if form == "markdown":
        raise click.UsageError("--format markdown is for --list-rules")
    if image and not run:
        raise click.UsageError("--image is for --run")
    report = checks.check(target, data=data, against=against, run=run, image=image, full=full, registry=registry)
    if form == "json":
        output.document(report.as_json())
    elif form == "sarif":
        from registry import sarif

        output.document(sarif.document(report, checks.every_kind()))
    elif form == "github":
        from registry import annotations

        for line in annotations.lines(report):
            output.answer(line)
        annotations.write_summary(report)
    else:
        _show(report)
    context.exit(0 if report.ok else 1)


def _list_rules(form: str) -> None:
    from registry import checks

    if form == "markdown":
        output.answer(checks.page().rstrip("\n"))
        return
    rules = checks.every_kind()
    if form == "json":
        output.document([{"code": r.code, "level": r.level, "summary": r.summary} for r in rules])
        return
    for rule in rules:
        output.answer(f"{rule.code:<12} {click.style(f'{rule.level:<8}', fg=COLOURS[rule.level])} {rule.summary}")


def _show(report: Report) -> None:
    """Write the findings, those of a file below its path."""
    ranks = list(COLOURS)
    found = sorted(report.findings, key=lambda f: (f.path, f.line or 0, ranks.index(f.level), f.code))
    for path, group in groupby(found, key=lambda f: f.path):
        output.answer(click.style(path or report.target, bold=True))
        for finding in group:
            line = f"line {finding.line}: " if finding.line else ""
            level = click.style(finding.level, fg=COLOURS[finding.level])
            output.answer(f"  {level} {finding.code}  {line}{finding.message}")
            if finding.hint:
                output.answer(f"    {click.style(finding.hint, dim=True)}")
    counts = {level: sum(f.level == level for f in found) for level in ranks}
    said = ", ".join(f"{number} {level}{'s' * (number != 1)}" for level, number in counts.items() if number)
    output.answer(f"{report.target}: {said or 'no problem found'}")
