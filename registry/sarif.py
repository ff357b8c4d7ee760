"""Findings as SARIF 2.1.0, which code scanning and editors read.

https://docs.oasis-open.org/sarif/sarif/v2.1.0/
"""

from __future__ import annotations

import hashlib
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Iterable

    from registry.checks import Kind
    from registry.findings import Finding, Report

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
LEVELS = {"error": "error", "warning": "warning", "note": "note"}
HOME = "https://github.com/ivadomed/mreg"
RULES_PAGE = f"{HOME}/blob/main/docs/rules.md"


def document(report: Report, kinds: Iterable[Kind]) -> dict[str, Any]:
    """Return one run with every rule's metadata, so that a reader sees what was looked for, too."""
    rules = {kind.code: _rule(kind.code, kind.level, kind.summary) for kind in kinds}
    for finding in report.findings:  # of what has no list, in general none
        rules.setdefault(finding.code, _rule(finding.code, finding.level, finding.code))
    index = {code: place for place, code in enumerate(rules)}
    return {
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "mreg",
                        "semanticVersion": metadata.version("mreg"),
                        "informationUri": HOME,
                        "rules": list(rules.values()),
                    }
                },
                "results": [_result(report, finding, index[finding.code]) for finding in report.findings],
                "columnKind": "utf16CodeUnits",
            }
        ],
    }


def _rule(code: str, level: str, summary: str) -> dict[str, Any]:
    return {
        "id": code,
        "shortDescription": {"text": summary},
        "helpUri": RULES_PAGE,
        "defaultConfiguration": {"level": LEVELS[level]},
    }


def _result(report: Report, finding: Finding, index: int) -> dict[str, Any]:
    message = finding.message + (f"\n{finding.hint}" if finding.hint else "")
    # Line numbers move with every edit: what identifies a finding over time is what it says about which file.
    print_of = hashlib.sha256(f"{finding.code}\n{finding.path}\n{finding.message}".encode()).hexdigest()
    physical: dict[str, Any] = {"artifactLocation": {"uri": _uri(report, finding)}}
    if finding.line:
        physical["region"] = {"startLine": finding.line}
    return {
        "ruleId": finding.code,
        "ruleIndex": index,
        "level": LEVELS[finding.level],
        "message": {"text": message},
        "locations": [{"physicalLocation": physical}],
        "partialFingerprints": {"mreg/v1": print_of},
    }


def _uri(report: Report, finding: Finding) -> str:
    """Return a relative address of the file; what lies in an archive is named below the archive."""
    target = Path(report.target).as_posix()
    if Path(report.target).is_dir():
        whole = finding.path or "model.toml" if target == "." else f"{target}/{finding.path}"
    else:
        whole = f"{target}/{finding.path}" if finding.path else target
    return quote(whole.rstrip("/"), safe="/:@")
