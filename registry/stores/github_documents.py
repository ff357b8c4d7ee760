"""What GitHub's documents say, in the registry's words."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from registry.errors import expecting
from registry.stores import Asset, Release, RepoInfo

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

Json = dict[str, Any]


def expecting_github(where: str) -> AbstractContextManager[None]:
    """Name the place where GitHub's answer lacks something that it always has."""
    return expecting(f"{where}: GitHub", "is GITHUB_API_URL the address of a GitHub API?")


def repo_info(document: Json, commit: str = "") -> RepoInfo:
    """Return a repository; `commit` is the head of its default branch."""
    return RepoInfo(
        name=document["name"],
        description=document["description"] or "",
        topics=tuple(sorted(document.get("topics", ()))),
        url=document["html_url"],
        default_branch=document["default_branch"],
        commit=commit,
        archived=document["archived"],
    )


def asset_of(document: Json) -> Asset:
    """Return an asset."""
    digest = document.get("digest") or ""
    return Asset(
        id=str(document["id"]),
        name=document["name"],
        size=document["size"],
        sha256=digest.removeprefix("sha256:") if digest.startswith("sha256:") else "",
        url=document["browser_download_url"],
        uploaded=document["state"] == "uploaded",
    )


def release_of(document: Json, repo: str) -> Release:
    """Return a release or a draft with its assets."""
    target = document["target_commitish"] or ""  # a commit, or a branch where people made the release by hand
    return Release(
        id=str(document["id"]),
        repo=repo,
        tag=document["tag_name"],
        title=document["name"] or "",
        notes=document["body"] or "",
        draft=document["draft"],
        commit=target if re.fullmatch(r"[0-9a-f]{40}", target) else "",
        published_at=document["published_at"] or "",
        immutable=bool(document.get("immutable")),
        url=document["html_url"],
        assets=tuple(asset_of(asset) for asset in document["assets"]),
    )
