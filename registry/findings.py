"""What a rule says: a finding, and the report that collects all of a target's findings."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Level = Literal["error", "warning", "note"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What one rule says about one place."""

    code: str  # stable, for example "NAME002"
    level: Level = "error"
    message: str
    path: str = ""  # inside the target, with forward slashes
    line: int | None = None
    hint: str = ""  # the way out


@dataclass(frozen=True, kw_only=True)
class Report:
    """All findings of one target."""

    target: str
    findings: tuple[Finding, ...] = field(default=())

    @property
    def ok(self) -> bool:
        """Whether no finding is an error."""
        return not any(f.level == "error" for f in self.findings)

    def as_json(self) -> dict[str, Any]:
        """Return the document of `mreg check --json`."""
        return {"target": self.target, "ok": self.ok, "findings": [asdict(f) for f in self.findings]}
