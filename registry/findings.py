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

    def __post_init__(self) -> None:
        """Escape what strangers' files brought in: half a character cannot be written, a terminal obeys others."""
        for name in ("message", "path", "hint"):
            object.__setattr__(self, name, _plain(getattr(self, name)))


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


def _plain(text: str) -> str:
    """Return a text whose letters and line ends stand as they are, everything else escaped."""
    return "".join(letter if letter.isprintable() or letter == "\n" else ascii(letter)[1:-1] for letter in text)
