"""A GitHub organisation (or user account) as the registry."""

from __future__ import annotations

import base64
import contextlib
import io
import re
import threading
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import quote

from registry.errors import ConflictError, IntegrityError, MregError, NotFoundError, RegistryError
from registry.files import sha256
from registry.stores import Asset, Release, RepoInfo
from registry.stores.contract import check_asset, check_repo_name, check_tag, newest_first
from registry.stores.first_commit import read_first_commit
from registry.stores.github_actions import GitHubActions
from registry.stores.github_api import GitHubApi, Pace, Refusal, Spoiled, Token
from registry.stores.github_assets import AssetSource, AssetStream, send
from registry.stores.github_overview import newest_releases
from registry.stores.github_repo import GitHubRepo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

Json = dict[str, Any]

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
        self._addresses: dict[str, str] = {}  # of uploads, by release; one request tells it for all files
        self._left: set[tuple[str, str]] = set()  # releases and names where a try of ours may have left a broken asset
        self._lock = threading.Lock()

    def token(self) -> Token:
        """Return what GitHub tells of the token; raise `AccessError` for one that it does not know."""
        with _expecting(self.org):
            return self._api.about_token()

    def repos(self) -> Iterator[RepoInfo]:
        """Yield every repository, sorted by name, without `commit`: that would cost a request each."""
        try:
            found = list(self._api.pages(f"/orgs/{self.org}/repos", where=self.org, what="list it", sort="full_name"))
        except NotFoundError:
            found = list(self._api.pages(f"/users/{self.org}/repos", where=self.org, what="list it", sort="full_name"))
        with _expecting(self.org):
            infos = [_repo_info(document) for document in found]
        yield from sorted(infos, key=lambda info: info.name)

    def repo(self, name: str) -> RepoInfo:
        """Return one repository; raise `NotFoundError`."""
        repo = self._repo(name)
        with _expecting(repo.where):
            document = repo.read()
            head = repo.head(document["default_branch"])
            return _repo_info(document, head["commit"]["sha"] if head else "")

    def create_repo(self, name: str, *, description: str, topics: tuple[str, ...]) -> RepoInfo:
        """Create an empty public repository, or add what a half-made one lacks; what people wrote there stays."""
        repo = self._repo(name)
        with _expecting(repo.where):
            document = repo.create(description, topics)
            head = repo.head(document["default_branch"])
            return _repo_info(document, head["commit"]["sha"] if head else "")

    def push_first_commit(self, name: str, worktree: Path) -> RepoInfo:
        """Push the working copy's first commit as the repository's only one and protect the default branch."""
        repo, commit = self._repo(name), read_first_commit(worktree)
        with _expecting(repo.where):
            return _repo_info(*repo.push(commit))

    def files(self, name: str, commit: str = "") -> dict[str, int]:
        """Return the sizes of all files of a branch, tag or commit by their paths, in one request."""
        repo = self._repo(name)
        with _expecting(repo.where):
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
        with _expecting(where):
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
        with _expecting(place.where):
            found = self._api.pages(f"{place.path}/releases", where=place.where, what="list the releases")
            return newest_first(_release(document, repo) for document in found)

    def newest_releases(self, repos: Sequence[str]) -> dict[str, list[Release]]:
        """Return the newest releases of several repositories: fifty a request with a token, else one."""
        if self._api.token:
            with contextlib.suppress(MregError), _expecting(self.org):  # an old server, or a token of another kind
                return newest_releases(self._api, self.org, repos)
        return {repo: self.releases(repo) for repo in repos}

    def create_draft(self, repo: str, tag: str, *, title: str, notes: str, commit: str = "") -> Release:
        """Create a draft on a commit, "" for the head of the default branch."""
        place = self._repo(repo)
        self._api.require("contents", place.where, f"release {tag}")
        body = {"tag_name": check_tag(repo, tag), "name": title, "body": notes, "draft": True}
        with _expecting(place.where):
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
            self._upload_address(place.where, document)
            return _release(document, repo)

    def upload(
        self, release: Release, path: Path, progress: Callable[[int], None] | None = None, *, digest: str = ""
    ) -> Asset:
        """Stream a file into a draft; a broken upload of that name, ours or older, is removed first."""
        check_asset(path)
        place = self._repo(release.repo)
        what = f"upload {path.name} to {release.tag}"
        self._api.require("contents", place.where, what)
        with self._lock:
            address = self._addresses.get(release.id) or self._prepare(release, path)
        document = self._api.patiently(
            lambda: self._send(release, path, address, progress or (lambda _: None), digest),
            where=place.where, what=what, needs="contents", recover=lambda: self._settle(release, path, digest),
        )  # fmt: skip
        self._left.discard((release.id, path.name))
        return _asset(document)

    def _prepare(self, release: Release, path: Path) -> str:
        """Return the address for uploads, once nothing of that name is in the way."""
        place = self._repo(release.repo)
        draft = self._draft(release, "take an asset")
        with _expecting(place.where):
            known = [_asset(document) for document in draft["assets"]]
        for asset in known:
            if asset.name == path.name and asset.uploaded:
                raise _taken(place.where, release, path)
            if asset.name == path.name:
                self._delete_asset(release, asset.id)
        return self._upload_address(place.where, draft)

    def _upload_address(self, where: str, document: Json) -> str:
        """Keep the address for uploads that a release tells; raise where it must not see the token."""
        with _expecting(where):
            address: str = document["upload_url"].partition("{")[0]
            number = str(document["id"])
        if not self._api.trusts(address):
            raise RegistryError(f"{where}: {address} is no address of {self._api.url}", hint="no token was sent")
        self._addresses[number] = address
        return address

    def delete_asset(self, release: Release, asset: Asset) -> None:
        """Delete an asset of a draft; one that has gone already is no error."""
        self._draft(release, "lose an asset")
        self._delete_asset(release, asset.id)

    def publish(self, release: Release, *, latest: bool) -> Release:
        """Make a draft public under its tag; one that is public already is no error."""
        body = {"tag_name": release.tag, "draft": False, "make_latest": "true" if latest else "false"}
        self._addresses.pop(release.id, None)  # an upload from now on asks again, and is refused
        document = self._read(release)
        if document["draft"]:
            document = self._edit(release, body, f"publish {release.tag}")
        with _expecting(self._repo(release.repo).where):
            return _release(document, release.repo)

    def delete_draft(self, release: Release) -> None:
        """Delete a draft with its assets; refuse a published release."""
        self._draft(release, "be deleted")
        with contextlib.suppress(NotFoundError):  # the try before this one did it
            self._write("DELETE", release, "", f"delete the draft of {release.tag}")

    def set_notes(self, release: Release, notes: str) -> Release:
        """Replace the notes of a release."""
        # GitHub forgets a draft's tag when it is not sent again.
        document = self._edit(release, {"tag_name": release.tag, "body": notes}, f"edit the notes of {release.tag}")
        with _expecting(self._repo(release.repo).where):
            return _release(document, release.repo)

    def open_asset(self, release: Release, asset: Asset, offset: int = 0) -> BinaryIO:
        """Open the bytes of an asset from `offset` on; the stream resumes by itself when the connection breaks."""
        place = self._repo(release.repo)
        if offset > asset.size:
            raise IntegrityError(f"{place.where}: {asset.name} has {asset.size} bytes, asked for byte {offset}")
        if offset == asset.size:
            return io.BytesIO()
        private = f"{self._api.url}{place.path}/releases/assets/{asset.id}"
        public = "" if release.draft else asset.url
        source = AssetSource(self._api, public, private, where=place.where, name=asset.name)
        return io.BufferedReader(AssetStream(source, offset, asset.size))

    def _repo(self, name: str) -> GitHubRepo:
        return GitHubRepo(self._api, self.org, check_repo_name(name))

    def _read(self, release: Release) -> Json:
        place = self._repo(release.repo)
        path = f"{place.path}/releases/{release.id}"
        document: Json = self._api.call("GET", path, where=place.where, what=f"read the release {release.tag}")
        return document

    def _draft(self, release: Release, what: str) -> Json:
        """Return a draft as it is now; a published release cannot do `what`."""
        place = self._repo(release.repo)
        self._api.require("contents", place.where, f"change the release {release.tag}")
        document = self._read(release)
        if not document["draft"]:
            raise ConflictError(
                f"{place.where}: release {release.tag} is public and cannot {what}",
                hint="publish a new release instead",
            )
        return document

    def _write(self, verb: str, release: Release, path: str, what: str, body: Json | None = None) -> Any:
        place = self._repo(release.repo)
        address = f"{place.path}/releases/{path or release.id}"
        return self._api.call(verb, address, body, where=place.where, what=what, needs="contents")

    def _edit(self, release: Release, body: Json, what: str) -> Json:
        document: Json = self._write("PATCH", release, "", what, body)
        return document

    def _delete_asset(self, release: Release, asset_id: str) -> None:
        with contextlib.suppress(NotFoundError):
            self._write("DELETE", release, f"assets/{asset_id}", f"delete an asset of {release.tag}")

    def _send(self, release: Release, path: Path, address: str, progress: Callable[[int], None], digest: str) -> Json:
        """Upload once; whatever arrived changed or renamed is removed again."""
        try:
            sent = send(self._api, address, path, progress, digest)
        except Refusal as refusal:
            if not refusal.duplicate:
                self._left.add((release.id, path.name))
                raise
            raise Spoiled(f"{path.name}: a broken upload is in the way") from refusal
        except BaseException:
            self._left.add((release.id, path.name))
            raise
        if sent.document["name"] != path.name:
            self._delete_asset(release, str(sent.document["id"]))
            raise IntegrityError(f"{path.name}: GitHub calls it {sent.document['name']}", hint="rename the file")
        if not sent.arrived:
            self._delete_asset(release, str(sent.document["id"]))
            progress(-sent.size)
            raise Spoiled(f"{path.name} arrived with other bytes than were sent")
        return sent.document

    def _settle(self, release: Release, path: Path, digest: str) -> Json | None:
        """After a failed try: return the asset if it arrived after all, else remove what the try left."""
        place = self._repo(release.repo)
        ours = (release.id, path.name) in self._left
        found = self._api.pages(f"{place.path}/releases/{release.id}/assets", where=place.where, what="list the assets")
        for asset in found:
            if asset["name"] != path.name:
                continue
            if not ours:  # nothing of that name was there before
                raise _taken(place.where, release, path, whole=asset["state"] == "uploaded")
            if asset["state"] != "uploaded":
                self._delete_asset(release, str(asset["id"]))
            elif asset["digest"] == f"sha256:{digest or sha256(path)}":
                document: Json = asset
                return document
            else:
                raise ConflictError(f"{place.where}: somebody else uploaded another {path.name} to {release.tag}")
        return None


def _taken(where: str, release: Release, path: Path, *, whole: bool = True) -> ConflictError:
    if whole:
        return ConflictError(
            f"{where}: the draft of {release.tag} has an asset {path.name} already", hint="delete the asset first"
        )
    return ConflictError(
        f"{where}: somebody else is uploading {path.name} to {release.tag} at this moment",
        hint="wait until they are done, then run the same command again",
    )


@contextlib.contextmanager
def _expecting(where: str) -> Iterator[None]:
    """Name the place where GitHub's answer lacks something that it always has."""
    try:
        yield
    except (KeyError, TypeError, ValueError) as error:
        raise RegistryError(
            f"{where}: GitHub answers with something else than expected: {type(error).__name__}: {error}",
            hint="is GITHUB_API_URL the address of a GitHub API?",
        ) from error


def _repo_info(document: Json, commit: str = "") -> RepoInfo:
    return RepoInfo(
        name=document["name"],
        description=document["description"] or "",
        topics=tuple(sorted(document.get("topics", ()))),
        url=document["html_url"],
        default_branch=document["default_branch"],
        commit=commit,
        archived=document["archived"],
    )


def _asset(document: Json) -> Asset:
    digest = document.get("digest") or ""
    return Asset(
        id=str(document["id"]),
        name=document["name"],
        size=document["size"],
        sha256=digest.removeprefix("sha256:") if digest.startswith("sha256:") else "",
        url=document["browser_download_url"],
        uploaded=document["state"] == "uploaded",
    )


def _release(document: Json, repo: str) -> Release:
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
        assets=tuple(_asset(asset) for asset in document["assets"]),
    )
