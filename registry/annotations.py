"""Findings as GitHub Actions shows them: annotations at their lines, and a table in the run's summary.

Workflow commands: https://docs.github.com/actions/reference/workflow-commands-for-github-actions
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from registry.findings import Finding, Report

COMMANDS = {"error": "error", "warning": "warning", "note": "notice"}
SUMMARY_VARIABLE = "GITHUB_STEP_SUMMARY"
MOST_ROWS = 200  # a summary may have 1 MiB; nobody reads more than this


def lines(report: Report) -> list[str]:
    """Return the workflow commands, errors first: a step shows ten annotations of each level."""
    order = list(COMMANDS)
    ordered = sorted(report.findings, key=lambda f: (order.index(f.level), f.path, f.line or 0))
    base = report.target if Path(report.target).is_dir() else ""
    return [_line(finding, base, report.target) for finding in ordered]


def _line(finding: Finding, base: str, target: str) -> str:
    place = [f"file={_property(_from_root(base, finding.path))}"] if finding.path and base else []
    if finding.line and place:
        place.append(f"line={finding.line}")
    place.append(f"title={_property(f'mreg {finding.code}')}")
    where = f"{target}: {finding.path}: " if finding.path and not base else "" if base else f"{target}: "
    message = f"{where}{finding.message}" + (f"\n{finding.hint}" if finding.hint else "")
    return f"::{COMMANDS[finding.level]} {','.join(place)}::{_data(message)}"


def _from_root(base: str, path: str) -> str:
    """Return a path as seen from the root of the repository that the workflow checked out."""
    return Path(os.path.normpath(Path(base, path))).as_posix()


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


def write_summary(report: Report) -> None:
    """Append a table of the findings to the step's summary, where there is one."""
    path = os.environ.get(SUMMARY_VARIABLE)
    if path:
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(summary(report))


def summary(report: Report) -> str:
    """Return the findings as Markdown."""
    errors = sum(finding.level == "error" for finding in report.findings)
    verdict = f"{errors} error{'s' * (errors != 1)}" if errors else "no error"
    title = f"### mreg check {_cell(report.target)}: {verdict}\n\n"
    if not report.findings:
        return title
    order = list(COMMANDS)
    ordered = sorted(report.findings, key=lambda f: (order.index(f.level), f.path, f.line or 0))
    rows = [_row(finding) for finding in ordered[:MOST_ROWS]]
    more = f"\n{len(ordered) - MOST_ROWS} more are not shown.\n" if len(ordered) > MOST_ROWS else ""
    head = "| level | code | place | what | the way out |\n|---|---|---|---|---|\n"
    return title + head + "\n".join(rows) + f"\n{more}\n"


def _row(finding: Finding) -> str:
    place = f"{finding.path}:{finding.line}" if finding.line else finding.path
    cells = (finding.level, finding.code, place, finding.message, finding.hint)
    return f"| {' | '.join(_cell(cell) for cell in cells)} |"


def _cell(text: str) -> str:
    """Return text that stays within its cell and is not taken for HTML or Markdown."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("\n", " ")
    return "".join(f"\\{c}" if c in "|`*_[]\\" else c for c in text)
