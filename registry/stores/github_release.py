"""One release on GitHub: read as it is now, changed while it is a draft."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from registry.errors import ConflictError, NotFoundError
from registry.stores.contract import check_repo_name
from registry.stores.github_documents import Json, expecting_github

if TYPE_CHECKING:
    from collections.abc import Iterator

    from registry.stores import Release
    from registry.stores.github_api import GitHubApi


class GitHubRelease:
    """A release or a draft, known by its number."""

    def __init__(self, api: GitHubApi, org: str, release: Release) -> None:
        repo = check_repo_name(release.repo)
        self._api, self.id, self.tag = api, release.id, release.tag
        self.where = f"{org}/{repo}"
        self._releases = f"/repos/{org}/{repo}/releases"

    def read(self) -> Json:
        """Return GitHub's document."""
        path = f"{self._releases}/{self.id}"
        document: Json = self._api.call("GET", path, where=self.where, what=f"read the release {self.tag}")
        return document

    def draft(self, what: str) -> Json:
        """Return a draft as it is now; a published release cannot do `what`."""
        self._api.require("contents", self.where, f"change the release {self.tag}")
        with expecting_github(self.where):
            document = self.read()
            public = not document["draft"]
        if public:
            raise ConflictError(
                f"{self.where}: release {self.tag} is public and cannot {what}", hint="publish a new release instead"
            )
        return document

    def edit(self, body: Json, what: str) -> Json:
        """Change what the body says, and return GitHub's document."""
        path = f"{self._releases}/{self.id}"
        document: Json = self._api.call("PATCH", path, body, where=self.where, what=what, needs="contents")
        return document

    def delete(self) -> None:
        """Delete the release; one that has gone already is no error."""
        self._delete(self.id, f"delete the draft of {self.tag}")

    def assets(self) -> Iterator[Json]:
        """Yield GitHub's documents of the assets, broken ones too."""
        yield from self._api.pages(f"{self._releases}/{self.id}/assets", where=self.where, what="list the assets")

    def asset_path(self, asset_id: str) -> str:
        """Return the API's path of an asset."""
        return f"{self._releases}/assets/{asset_id}"

    def delete_asset(self, asset_id: str) -> None:
        """Delete an asset; one that has gone already is no error."""
        self._delete(f"assets/{asset_id}", f"delete an asset of {self.tag}")

    def _delete(self, path: str, what: str) -> None:
        with contextlib.suppress(NotFoundError):  # the try before this one did it
            self._api.call("DELETE", f"{self._releases}/{path}", where=self.where, what=what, needs="contents")
