"""The newest releases of many repositories in one request, through GitHub's GraphQL API, which wants a token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from registry.stores import Asset, Release
from registry.stores.contract import check_repo_name, newest_first

if TYPE_CHECKING:
    from collections.abc import Sequence

    from registry.stores.github_api import GitHubApi

BATCH = 50  # repositories a request
_RELEASES = """releases(first: 20, orderBy: {field: CREATED_AT, direction: DESC}) { nodes {
  databaseId tagName name description isDraft publishedAt immutable url
  releaseAssets(first: 20) { nodes { name size downloadUrl } }
} }"""


def newest_releases(api: GitHubApi, org: str, repos: Sequence[str]) -> dict[str, list[Release]]:
    """Return up to twenty releases of each repository, newest tag first; a repository that is not there is left out.

    Assets have neither a number nor a digest here, so they can be named but not read.
    """
    found: dict[str, list[Release]] = {}
    for start in range(0, len(repos), BATCH):
        names = [check_repo_name(name) for name in repos[start : start + BATCH]]
        asked = [f'r{i}: repository(owner: "{org}", name: "{name}") {{ {_RELEASES} }}' for i, name in enumerate(names)]
        data = api.query("query { " + " ".join(asked) + " }", where=org, what="list the releases")
        for i, name in enumerate(names):
            if repository := data.get(f"r{i}"):
                found[name] = newest_first(_release(node, name) for node in repository["releases"]["nodes"])
    return found


def _release(node: dict[str, Any], repo: str) -> Release:
    assets = node["releaseAssets"]["nodes"]
    return Release(
        id=str(node["databaseId"]),
        repo=repo,
        tag=node["tagName"],
        title=node["name"] or "",
        notes=node["description"] or "",
        draft=node["isDraft"],
        published_at=node["publishedAt"] or "",
        immutable=bool(node["immutable"]),
        url=node["url"],
        assets=tuple(Asset(id="", name=a["name"], size=a["size"], sha256="", url=a["downloadUrl"]) for a in assets),
    )
