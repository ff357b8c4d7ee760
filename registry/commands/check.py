"""`mreg check`."""

from __future__ import annotations

import click

from registry import output
from registry.commands._options import json_option

COLOURS = {"error": "red", "warning": "yellow", "note": "blue"}


@click.command("check")
@click.argument("target", default=".")
@click.option("--list-rules", is_flag=True, help="List the rules instead.")
@json_option
@click.pass_context
def command(context: click.Context, target: str, list_rules: bool, as_json: bool) -> None:
    """Report everything that is wrong with a repo, dataset, run or archive.

    All findings in one go, each with its code, place and the way out. Nothing that is checked is executed, and torch is
    not needed. Exit status 1 if a finding is an error.

    \b
    Examples:
      mreg check                                      the repo that you stand in
      mreg check dist/r20261121/model_seg_sc_t2-r20261121.zip
      mreg check runs/3d_fullres-1a2b3c4d --json
    """
    from registry import checks

    if list_rules:
        rules = checks.all_rules()
        if as_json:
            output.document([{"code": r.code, "level": r.level, "summary": r.summary} for r in rules])
        for rule in () if as_json else rules:
            output.answer(f"{rule.code:<11} {rule.level:<8} {rule.summary}")
        return
    report = checks.check(target)
    if as_json:
        output.document(report.as_json())
    else:
        for finding in sorted(report.findings, key=lambda f: (f.path, f.code)):
            level = click.style(finding.level, fg=COLOURS[finding.level])
            place = f"{finding.path}: " if finding.path else ""
            output.answer(f"{level} {finding.code} {place}{finding.message}")
            if finding.hint:
                output.answer(f"    {finding.hint}")
        errors = sum(finding.level == "error" for finding in report.findings)
        output.answer(f"{target}: {errors} errors, {len(report.findings) - errors} other findings")
    context.exit(0 if report.ok else 1)
