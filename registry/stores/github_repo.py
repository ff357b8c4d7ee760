"""A repository's birth on GitHub: created or completed, filled with one commit, protected.

The first commit goes through the Git data API and not through `git push`: the token stays in this process, refusals
arrive as JSON, and any address of an API works. That API answers 409 while a repository is empty, so one file is
written through the contents API first; then the real commit, which has no parent, replaces that seed. A run that was
killed in between leaves the seed, which the next run knows by its message.
"""

from __future__ import annotations

import base64
import contextlib
from dataclasses import asdict
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from registry import output
from registry.errors import AccessError, ConflictError, IntegrityError, MregError, NotFoundError
from registry.stores.contract import LABELS, check_description, check_topics

if TYPE_CHECKING:
    from registry.stores.first_commit import CommittedFile, FirstCommit
    from registry.stores.github_api import GitHubApi

SEED_MESSAGE = "Seed of an empty repository; the first commit replaces it"
INLINE_BYTES = 100_000  # larger files travel as blobs of their own, so that no request becomes huge
PROTECTION = {
    # Changes come through pull requests; the repository's administrators may go past that, nobody rewrites history.
    "required_pull_request_reviews": {"required_approving_review_count": 1},
    "required_status_checks": None,
    "enforce_admins": False,
    "restrictions": None,
    "allow_force_pushes": False,
    "allow_deletions": False,
}
Json = dict[str, Any]


class GitHubRepo:
    """One repository, there or not yet."""

    def __init__(self, api: GitHubApi, org: str, name: str) -> None:
        self._api, self._org, self._name = api, org, name
        self.where = f"{org}/{name}"
        self.path = f"/repos/{org}/{name}"

    def read(self) -> Json:
        """Return GitHub's document; raise `NotFoundError`."""
        document: Json = self._api.call("GET", self.path, where=self.where, what="read the repository")
        return document

    def head(self, branch: str) -> Json | None:
        """Return the branch with its commit; None while the repository is empty."""
        try:
            found: Json = self._api.call(
                "GET", f"{self.path}/branches/{branch}", where=self.where, what="read its head"
            )
        except NotFoundError:
            return None
        return found

    def create(self, description: str, topics: tuple[str, ...]) -> Json:
        """Create the repository, or add what it lacks: description, topics, labels."""
        description, topics = check_description(self._name, description), check_topics(self._name, topics)
        self._api.require("administration", self.where, "create the repository")
        document = self._find() or self._create(description)
        if document["name"].lower() != self._name.lower():
            raise ConflictError(
                f"{self.where}: this repository is called {document['full_name']} now", hint="use its new name"
            )
        if description and not document["description"]:
            document = self._write("PATCH", "", {"description": description}, "set the description")
        missing = set(topics) - set(document["topics"])
        if missing:
            names = sorted({*topics, *document["topics"]})
            self._write("PUT", "/topics", {"names": names}, "set the topics")
            document["topics"] = names
        self._add_labels()
        return document

    def push(self, commit: FirstCommit) -> tuple[Json, str]:
        """Make `commit` the repository's only one, or do nothing where its files are in already.

        Returns GitHub's document of the repository and the name of the default branch's head.
        """
        if not commit.files:
            raise MregError(f"{self.where}: the first commit has no files", hint="add the files, then commit again")
        self._api.require("contents", self.where, "push the first commit")
        document = self.read()
        branch = document["default_branch"]
        head = self.head(branch)
        if head and head["commit"]["commit"]["message"] != SEED_MESSAGE:
            self._check_same(document, head, commit)
            if not head["protected"]:
                self._protect(branch)
            return document, head["commit"]["sha"]
        if not head:
            self._seed(branch, commit.files)
        sha = self._replace(branch, commit)
        self._protect(branch)
        return document, sha

    def _find(self) -> Json | None:
        try:
            return self.read()
        except NotFoundError:
            return None

    def _create(self, description: str) -> Json:
        body = {"name": self._name, "description": description, "private": False, "has_wiki": False}
        what = f"create the repository in {self._org}"
        options: Json = {"where": self.where, "what": what, "needs": "administration", "recover": self._find}
        try:
            created: Json = self._api.call("POST", f"/orgs/{self._org}/repos", body, **options)
        except NotFoundError as missing:  # not an organisation, or one that the token does not see
            login = self._api.call("GET", "/user", where=self._org, what="find out whose token this is")["login"]
            if login.lower() != self._org.lower():
                raise NotFoundError(
                    f"{self.where}: there is no organisation {self._org} that the token of {login} may write to",
                    hint=f"--registry github:{login} uses the account of {login}",
                ) from missing
            created = self._api.call("POST", "/user/repos", body, **options)
        return created

    def _add_labels(self) -> None:
        there = {
            label["name"] for label in self._api.pages(f"{self.path}/labels", where=self.where, what="list labels")
        }
        for name, (color, description) in LABELS.items():
            if name not in there:
                with contextlib.suppress(ConflictError):  # made by the try before this one
                    body = {"name": name, "color": color, "description": description}
                    self._write("POST", "/labels", body, f"add the label {name}", needs="issues")

    def _check_same(self, document: Json, head: Json, commit: FirstCommit) -> None:
        """Raise where the repository has a history that does not begin with this commit."""
        if head["commit"]["commit"]["tree"]["sha"] == commit.tree:
            return
        try:  # people may have gone on since
            self._api.call("GET", f"{self.path}/git/commits/{commit.sha}", where=self.where, what="read its history")
        except NotFoundError:
            raise ConflictError(
                f"{self.where}: the repository has other files than the working copy",
                hint=f"choose another name, or work on with: git clone {document['html_url']}",
            ) from None

    def _seed(self, branch: str, files: tuple[CommittedFile, ...]) -> None:
        file = next((f for f in files if f.path == "README.md"), files[0])
        body = {"message": SEED_MESSAGE, "content": base64.b64encode(file.content).decode(), "branch": branch}
        path = f"/contents/{quote(file.path)}"
        self._write("PUT", path, body, "fill the empty repository", needs="contents", recover=lambda: self.head(branch))

    def _replace(self, branch: str, commit: FirstCommit) -> str:
        """Write the commit with its author, dates and message as they are, so that its name stays the same."""
        entries = [self._entry(file) for file in commit.files]
        tree = self._write("POST", "/git/trees", {"tree": entries}, "push the files", needs="contents")
        if tree["sha"] != commit.tree:
            raise IntegrityError(f"{self.where}: GitHub has other files than were sent: tree {tree['sha']}")
        body = {
            "message": commit.message,
            "tree": commit.tree,
            "parents": [],
            "author": asdict(commit.author),
            "committer": asdict(commit.committer),
            **({"signature": commit.signature} if commit.signature else {}),
        }
        sha = self._write("POST", "/git/commits", body, "push the first commit", needs="contents")["sha"]
        move = {"sha": sha, "force": True}
        self._write("PATCH", f"/git/refs/heads/{branch}", move, "push the first commit", needs="contents")
        return str(sha)

    def _entry(self, file: CommittedFile) -> Json:
        entry = {"path": file.path, "mode": file.mode, "type": "blob"}
        if 0 < len(file.content) <= INLINE_BYTES and b"\0" not in file.content:
            with contextlib.suppress(UnicodeDecodeError):
                return {**entry, "content": file.content.decode()}
        body = {"content": base64.b64encode(file.content).decode(), "encoding": "base64"}
        return {**entry, "sha": self._write("POST", "/git/blobs", body, f"push {file.path}", needs="contents")["sha"]}

    def _protect(self, branch: str) -> None:
        try:
            self._write("PUT", f"/branches/{branch}/protection", PROTECTION, "protect the default branch")
        except AccessError as error:
            if "Upgrade to" not in error.message:
                raise
            output.warn(f"{self.where}: GitHub protects branches of private repositories in paid plans only")

    def _write(
        self, verb: str, path: str, body: Json, what: str, needs: str = "administration", **options: Any
    ) -> Json:
        # 409 means that the repository is empty or still being made; after the seed it can only be the second.
        later = (409,) if path.startswith("/git/") else ()
        document: Json = self._api.call(
            verb, self.path + path, body, where=self.where, what=what, needs=needs, also_later=later, **options
        )
        return document
