"""What a registry has of a model's releases, for the tests of `mreg release`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fixtures_release import TAG
from fixtures_stores import NAME

if TYPE_CHECKING:
    from pathlib import Path

ARCHIVE = f"{NAME}-{TAG}.zip"


def published(store, name=NAME):
    """Return the public releases."""
    return [r for r in store.releases(name) if not r.draft]


def drafts(store):
    """Return the drafts."""
    return [r for r in store.releases(NAME) if r.draft]


def state(store):
    """Everything that people can see of the releases, without the numbers that only say who came first."""
    return [
        (r.tag, r.draft, r.notes, r.title, sorted((a.name, a.size, a.sha256, a.uploaded) for a in r.assets))
        for r in store.releases(NAME)
    ]


def snapshot(folder: Path):
    """Return every file below a folder, with its time and bytes."""
    return {
        p.relative_to(folder).as_posix(): (p.stat().st_mtime_ns, p.is_file() and p.read_bytes())
        for p in folder.rglob("*")
    }
