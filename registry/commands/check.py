"""`mreg check`."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

import click

from registry import output
from registry.commands._options import json_option

if TYPE_CHECKING:
    from registry.findings import Report

COLOURS = {"error": "red", "warning": "yellow", "note": "blue"}


@click.command("check")
@click.argument("target", required=False)
@click.option("--data", is_flag=True, help="Read also the images of the repo's dataset.")
@click.option("--list-rules", is_flag=True, help="List the rules instead.")
@click.option("--format", "form", type=click.Choice(["text", "json", "markdown"]), default="text", show_default=True)
@json_option
@click.pass_context
def command(context: click.Context, target: str | None, data: bool, list_rules: bool, form: str, as_json: bool) -> None:
    """Report everything that is wrong with a repo, dataset, run or archive.

    All findings in one go, each with its code, place and the way out. Nothing that is checked is executed, and torch is
    not needed. Exit status 1 if a finding is an error.

    \b
    Examples:
      mreg check                                      the repo that you stand in
      mreg check dist/r20261121/model_seg_sc_t2-r20261121.zip
      mreg check runs/3d_fullres-1a2b3c4d --json
      mreg check --list-rules
    """
    from registry import checks

    form = "json" if as_json else form
    if list_rules:
        _list_rules(form)
        return
    if form == "markdown":
        raise click.UsageError("--format markdown is for --list-rules")
    report = checks.check(target, data=data)
    if form == "json":
        output.document(report.as_json())
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
