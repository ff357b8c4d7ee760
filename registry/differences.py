"""What changed between two releases of a model, and what of it an installed SCT would stumble over."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from registry.findings import Finding
    from registry.tree import Tree


def findings(target: str | Path | Tree, ref: str, registry: str | None) -> Iterator[Finding]:
    """Yield what changed in a target since the release `ref` (`latest`: the newest one that is not the target's)."""
    del target, ref, registry
    yield from ()
