"""A GitHub organisation (or user account) as the registry."""

from __future__ import annotations

import base64
import contextlib
import io
import re
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import quote

from registry.errors import ConflictError, IntegrityError, MregError, NotFoundError, RegistryError
from registry.stores.contract import check_repo_name, check_tag, newest_first
from registry.stores.first_commit import read_first_commit
from registry.stores.github_actions import GitHubActions
from registry.stores.github_api import GitHubApi, Pace, Token
from registry.stores.github_assets import AssetSource, AssetStream
from registry.stores.github_documents import Json, expecting_github, release_of, repo_info
from registry.stores.github_overview import newest_releases
from registry.stores.github_release import GitHubRelease
from registry.stores.github_repo import GitHubRepo
from registry.stores.github_uploads import GitHubUploads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from registry.stores import Asset, Release, RepoInfo

LAG = (1.0, 2.0, 4.0)  # seconds between two looks at a list that lags behind


class GitHubStore:
    """Repositories, releases and assets of one organisation; needs a token only to write and to see what is private."""

    def __init__(self, org: str, *, url: str | None = None, token: str | None = None, pace: Pace | None = None) -> None:
        if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?", org):
            raise MregError(
                f"{org!r} cannot be an organisation or a user", hint="for example --registry github:ivadomed"
            )
        self.org = org
        self.location = f"github:{org}"
        self._api = GitHubApi(url=url, token=token, pace=pace)
        self._uploads = GitHubUploads(self._api)

    def token(self) -> Token:
        """Return what GitHub tells of the token; raise `AccessError` for one that it does not know."""
        with expecting_github(self.org):
            return self._api.about_token()

    def repos(self) -> Iterator[RepoInfo]:
        """Yield every repository, sorted by name, without `commit`: that would cost a request each."""
        try:
            found = list(self._api.pages(f"/orgs/{self.org}/repos", where=self.org, what="list it", sort="full_name"))
        except NotFoundError:
            found = list(self._api.pages(f"/users/{self.org}/repos", where=self.org, what="list it", sort="full_name"))
        with expecting_github(self.org):
            infos = [repo_info(document) for document in found]
        yield from sorted(infos, key=lambda info: info.name)

    def repo(self, name: str) -> RepoInfo:
        """Return one repository; raise `NotFoundError`."""
        repo = self._repo(name)
        with expecting_github(repo.where):
            document = repo.read()
            head = repo.head(document["default_branch"])
            return repo_info(document, head["commit"]["sha"] if head else "")

    def create_repo(self, name: str, *, description: str, topics: tuple[str, ...]) -> RepoInfo:
        """Create an empty public repository, or add what a half-made one lacks; what people wrote there stays."""
        repo = self._repo(name)
        with expecting_github(repo.where):
            document = repo.create(description, topics)
            head = repo.head(document["default_branch"])
            return repo_info(document, head["commit"]["sha"] if head else "")

    def push_first_commit(self, name: str, worktree: Path) -> RepoInfo:
        """Push the working copy's first commit as the repository's only one and protect the default branch."""
        repo, commit = self._repo(name), read_first_commit(worktree)
        with expecting_github(repo.where):
            return repo_info(*repo.push(commit))

    def files(self, name: str, commit: str = "") -> dict[str, int]:
        """Return the sizes of all files of a branch, tag or commit by their paths, in one request."""
        repo = self._repo(name)
        with expecting_github(repo.where):
            address = f"{repo.path}/git/trees/{quote(commit or 'HEAD', safe='')}?recursive=1"
            document = self._api.call(
                "GET", address, where=repo.where, what=f"list the files of {commit or 'the repository'}"
            )
            if document.get("truncated"):
                raise RegistryError(f"{repo.where}: GitHub does not list all of its files", hint="clone it, check that")
            return {entry["path"]: entry["size"] for entry in document["tree"] if entry["type"] == "blob"}

    def read_file(self, name: str, path: str, commit: str = "") -> bytes:
        """Return one file of a branch, tag or commit, by default the default branch's head; raise `NotFoundError`."""
        repo = self._repo(name)
        where, what = repo.where, f"read {path}"
        if ".." in path.split("/"):  # would lead to another address of the API
            raise NotFoundError(f"{where}: {path} is not a file")
        with expecting_github(where):
            at = f"?ref={quote(commit, safe='')}" if commit else ""
            document = self._api.call("GET", f"{repo.path}/contents/{quote(path)}{at}", where=where, what=what)
            if isinstance(document, list) or document["type"] not in ("file", "symlink"):
                raise NotFoundError(f"{where}: {path} is not a file")
            if document.get("encoding") != "base64":  # above 1 MB only the Git data API gives the content
                blob = f"{repo.path}/git/blobs/{document['sha']}"
                document = self._api.call("GET", blob, where=where, what=what)
            return base64.b64decode(document["content"])

    def actions(self, repo: str) -> GitHubActions:
        """Return the workflows of a repository."""
        return GitHubActions(self._api, self.org, check_repo_name(repo))

    @property
    def sleep(self) -> Callable[[float], None]:
        """Return how this store waits."""
        return self._api.pace.sleep

    def releases(self, repo: str) -> list[Release]:
        """Return the releases, newest tag first; drafts too where the token may push."""
        place = self._repo(repo)
        with expecting_github(place.where):
            found = self._api.pages(f"{place.path}/releases", where=place.where, what="list the releases")
            return newest_first(release_of(document, repo) for document in found)

    def newest_releases(self, repos: Sequence[str]) -> dict[str, list[Release]]:
        """Return the newest releases of several repositories: fifty a request with a token, else one."""
        found: dict[str, list[Release]] = {}
        if self._api.token:
            # Without an answer where the server is old, or the token of another kind.
            with contextlib.suppress(MregError), expecting_github(self.org):
                found = newest_releases(self._api, self.org, repos)
        for repo in repos:
            if repo not in found:  # not there, or an answer with gaps
                with contextlib.suppress(NotFoundError):
                    found[repo] = self.releases(repo)
        return found

    def create_draft(self, repo: str, tag: str, *, title: str, notes: str, commit: str = "") -> Release:
        """Create a draft on a commit, "" for the head of the default branch."""
        place = self._repo(repo)
        self._api.require("contents", place.where, f"release {tag}")
        body = {"tag_name": check_tag(repo, tag), "name": title, "body": notes, "draft": True}
        with expecting_github(place.where):
            commit = commit or self.repo(repo).commit
            if not commit:
                raise ConflictError(f"{place.where}: the repository is empty", hint="push its first commit: mreg new")
            body["target_commitish"] = commit

            def recover() -> Json | None:
                """Find the draft of a try whose answer was lost; another draft of the tag is not that one."""
                for seconds in (*LAG, None):
                    found = self._api.pages(f"{place.path}/releases", where=place.where, what="list the releases")
                    for one in found:
                        if all(one.get(key) == value for key, value in body.items()):
                            document: Json = one
                            return document
                    if seconds is not None:
                        self._api.pace.sleep(seconds)
                return None

            document = self._api.call(
                "POST", f"{place.path}/releases", body,
                where=place.where, what=f"create the draft of {tag}", needs="contents", recover=recover,
            )  # fmt: skip
            self._uploads.remember(place.where, document)
            return release_of(document, repo)

    def upload(
        self, release: Release, path: Path, progress: Callable[[int], None] | None = None, *, digest: str = ""
    ) -> Asset:
        """Stream a file into a draft; a broken upload of that name, ours or older, is removed first."""
        return self._uploads.upload(self._release(release), path, progress or (lambda _: None), digest)

    def delete_asset(self, release: Release, asset: Asset) -> None:
        """Delete an asset of a draft; one that has gone already is no error."""
        draft = self._release(release)
        draft.draft("lose an asset")
        draft.delete_asset(asset.id)

    def publish(self, release: Release, *, latest: bool) -> Release:
        """Make a draft public under its tag; one that is public already is no error."""
        body = {"tag_name": release.tag, "draft": False, "make_latest": "true" if latest else "false"}
        draft = self._release(release)
        self._uploads.forget(draft)
        with expecting_github(draft.where):
            document = draft.read()
            if document["draft"]:
                document = draft.edit(body, f"publish {release.tag}")
            return release_of(document, release.repo)

    def delete_draft(self, release: Release) -> None:
        """Delete a draft with its assets; refuse a published release."""
        draft = self._release(release)
        draft.draft("be deleted")
        draft.delete()

    def set_notes(self, release: Release, notes: str) -> Release:
        """Replace the notes of a release."""
        place = self._release(release)
        with expecting_github(place.where):
            # GitHub forgets a draft's tag when it is not sent again.
            body = {"tag_name": release.tag, "body": notes}
            return release_of(place.edit(body, f"edit the notes of {release.tag}"), release.repo)

    def open_asset(self, release: Release, asset: Asset, offset: int = 0) -> BinaryIO:
        """Open the bytes of an asset from `offset` on; the stream resumes by itself when the connection breaks."""
        place = self._release(release)
        if offset > asset.size:
            raise IntegrityError(f"{place.where}: {asset.name} has {asset.size} bytes, asked for byte {offset}")
        if offset == asset.size:
            return io.BytesIO()
        private = f"{self._api.url}{place.asset_path(asset.id)}"
        public = "" if release.draft else asset.url
        source = AssetSource(self._api, public, private, where=place.where, name=asset.name)
        return io.BufferedReader(AssetStream(source, offset, asset.size))

    def _repo(self, name: str) -> GitHubRepo:
        return GitHubRepo(self._api, self.org, check_repo_name(name))

    def _release(self, release: Release) -> GitHubRelease:
        return GitHubRelease(self._api, self.org, release)
