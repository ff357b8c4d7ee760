"""What every registry holds to, whatever it is made of: which names are safe, and in which order releases stand."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from registry.errors import MregError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from registry.stores import Release

# Labels that mreg adds to a repository: name → colour, description. GitHub's own (bug, question …) stay.
LABELS = {
    "data": ("1d76db", "Images, labels, orientation, splits"),
    "training": ("5319e7", "Recipe, settings, results of a run"),
    "release": ("0e8a16", "Archive, manifest, publication"),
    "sct": ("fbca04", "How the Spinal Cord Toolbox installs and runs the model"),
}

# GitHub answers 400 or breaks off at 2 GiB and more, and refuses empty assets.
MAX_ASSET_BYTES = 2**31 - 1

_REPO = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,99}")
_TAG = re.compile(r"[A-Za-z0-9]+([._+-]+[A-Za-z0-9]+)*")
_TOPIC = re.compile(r"[a-z0-9][a-z0-9-]{0,49}")
# GitHub renames whatever does not look like this: other characters become dots, dots collapse and leave the ends.
_ASSET = re.compile(r"[A-Za-z0-9_+@-]+(\.[A-Za-z0-9_+@-]+)*")
_DATED_TAG = re.compile(r"r\d{8}")


def check_repo_name(name: str) -> str:
    """Return a repository's name, or raise where it cannot be one."""
    if not _REPO.fullmatch(name) or name.endswith(".git"):
        raise MregError(f"{name!r} cannot be the name of a repository", hint="letters, digits, '_', '-' and '.'")
    return name


def check_tag(repo: str, tag: str) -> str:
    """Return a tag that is safe as a Git tag and as a folder, or raise."""
    if not _TAG.fullmatch(tag) or ".." in tag or tag.endswith(".lock"):
        raise MregError(f"{repo}: {tag!r} cannot be a release tag", hint="for example r20260131")
    return tag


def check_description(name: str, description: str) -> str:
    """Return a description in one line, or raise where it is too long for GitHub."""
    description = " ".join(description.split())
    if len(description) > 350:  # noqa: PLR2004 - GitHub's own limit
        raise MregError(f"{name}: the description has {len(description)} characters", hint="350 are allowed")
    return description


def check_topics(name: str, topics: Iterable[str]) -> tuple[str, ...]:
    """Return the topics sorted and once each, or raise where GitHub would refuse one."""
    for topic in topics:
        if not _TOPIC.fullmatch(topic):
            raise MregError(f"{name}: {topic!r} cannot be a topic", hint="small letters, digits and '-', at most 50")
    return tuple(sorted(set(topics)))


def check_asset(path: Path) -> int:
    """Return the size in bytes of a file that may become an asset under its own name, or raise."""
    if not _ASSET.fullmatch(path.name):
        raise MregError(
            f"{path}: GitHub would rename an asset of that name",
            hint="letters, digits, '_', '-', '+' and single dots",
        )
    size = path.stat().st_size
    if size == 0:
        raise MregError(f"{path}: an empty file cannot be an asset")
    if size > MAX_ASSET_BYTES:
        raise MregError(
            f"{path}: {size} bytes, and GitHub takes assets below 2 GiB only",
            hint="weights in half precision (--half), an archive of each fold (--per-fold), or fewer folds",
        )
    return size


def newest_first(releases: Iterable[Release]) -> list[Release]:
    """Sort by tag, newest first: dated tags before others, numbers by their value.

    Of one tag the published release comes first, then its drafts, oldest first. By tag and not by day of publication,
    so that a fix of an old release does not become the newest.
    """
    stable = sorted(releases, key=lambda r: (r.draft, int(r.id)))
    return sorted(stable, key=lambda r: _tag_key(r.tag), reverse=True)


def _tag_key(tag: str) -> tuple[bool, list[tuple[int, str]]]:
    parts = re.findall(r"\d+|\D+", tag)
    return bool(_DATED_TAG.match(tag)), [(int(p), "") if p.isdecimal() else (-1, p) for p in parts]
