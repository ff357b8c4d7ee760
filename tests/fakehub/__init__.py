"""A GitHub of our own on loopback: repositories, Git data, releases and assets, with faults on demand.

    with FakeHub(tmp_path) as hub:
        hub.add_repo("model_seg_sc_t2", files={"README.md": b"..."})
        hub.add_release("model_seg_sc_t2", "r20260131", {"model.zip": b"..."})
        hub.fault("POST", r"/assets\\?", "status", status=502, starter=True)
        ... GITHUB_API_URL=hub.url GITHUB_TOKEN=hub.token ...
        hub.count("POST", "/releases$")

API and uploads share one origin; downloads are redirected to another host and port with a signed address, as on GitHub.
State lies on disk: Git objects in bare repositories, assets as files, the rest in state.json.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Self

from fakehub import actions, releases, routes  # noqa: F401 - importing them registers their routes
from fakehub.gitdata import GitRepo
from fakehub.server import HubError, LoggedRequest, serve

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

EVERYTHING = ("contents", "administration", "workflows", "issues", "actions", "attestations")


@dataclass
class Fault:
    """What goes wrong with the next `times` requests that match.

    status: answer `status` and do nothing (starter=True: an upload leaves its broken asset); late: do it, then answer
    `status`; reset: break the connection after `after` bytes of the body; lost: do it, then break the connection;
    truncate: send half of the answer; latency: wait `seconds`; alter: flip a byte of an upload or download;
    limit: GitHub's secondary rate limit with `retry_after` seconds (None: only the message); quota: its primary limit,
    over after `seconds`; lag: a list of releases as it was before the last write. With `since`, a regular expression,
    only once a request like that ("POST /repos/...") has come.
    """

    method: str
    path: str
    kind: str
    times: int = 1
    status: int = 502
    message: str = "Server Error"
    headers: dict[str, str] = field(default_factory=dict)
    starter: bool = False
    after: int = 0
    seconds: float = 0.0
    retry_after: int | None = 1
    since: str = ""


class FakeHub:
    """The server, its state, and the buttons for tests."""

    def __init__(self, root: Path, org: str = "ivadomed") -> None:
        self.root, self.org = root, org
        self.token = "ghp_canary0CANARY1canary2CANARY3canary"
        self.lock = threading.RLock()
        self.requests: list[LoggedRequest] = []
        self.faults: list[Fault] = []
        self.ranges = True  # False: the storage sends whole files only
        self.rate = 0.0  # bytes a second of a download, 0: as fast as it goes
        self.runner: Callable[[FakeHub, dict[str, Any], dict[str, Any]], None] | None = None  # what a dispatch starts
        self.gaps: set[str] = set()  # repositories of which a GraphQL answer says nothing
        self.run_details = True  # False: a server that does not know return_run_details
        self.before: dict[str, str] = {}  # releases of each repository before its last write, as JSON
        self.sleeps: list[float] = []  # what clients under test waited, where they are told to sleep here
        root.mkdir(parents=True, exist_ok=True)
        path = root / "state.json"
        if path.exists():
            self.state: dict[str, Any] = json.loads(path.read_text())
        else:
            self.state = {"owners": {org: "Organization", "ada": "User"}, "repos": {}, "tokens": {}, "next_id": 1000}
            self.state |= {"signatures": {}, "renamed": {}}
            self.add_token(self.token)

    def __enter__(self) -> Self:
        self._servers = [serve(self, "127.0.0.1", "api"), serve(self, "127.0.0.1", "storage")]
        self.url = f"http://127.0.0.1:{self._servers[0].server_address[1]}"
        self.storage_url = f"http://localhost:{self._servers[1].server_address[1]}"
        return self

    def __exit__(self, *_: object) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()

    # --- buttons -------------------------------------------------------------------------------------------------

    def add_token(self, token: str, can: tuple[str, ...] = EVERYTHING, login: str = "ada") -> str:
        """Add a token with GitHub's fine-grained permissions; `private` lets it see private repositories."""
        self.state["tokens"][token] = {"login": login, "can": list(can)}
        self.save()
        return token

    def add_repo(self, name: str, files: dict[str, bytes] | None = None, **fields: Any) -> dict[str, Any]:
        """Add a repository, with one commit where files are given."""
        owner = fields.pop("owner", self.org)
        repo = {
            "id": self.next_id(), "name": name, "owner": owner, "description": None, "topics": [], "labels": {},
            "private": False, "archived": False, "default_branch": "main", "protection": {}, "releases": {},
            "latest": None, "immutable": False, "created_at": self.now(), **fields,
        }  # fmt: skip
        self.state["repos"][f"{owner}/{name}"] = repo
        if files:
            git = self.git(repo)
            tree = git.write_tree({path: ("100644", git.write("blob", data)) for path, data in files.items()})
            who = {"name": "Ada", "email": "ada@example.org", "date": "2026-01-31T12:00:00+01:00"}
            git.set_ref(f"refs/heads/{repo['default_branch']}", git.write_commit(tree, [], "First commit\n", who, who))
        self.save()
        return repo

    def add_release(
        self, name: str, tag: str, assets: dict[str, bytes] | None = None, *, draft: bool = False, **fields: Any
    ) -> dict[str, Any]:
        """Add a release with assets to a repository; the last published one added is the latest."""
        repo = self.repo(name)
        release = releases.new_release(self, repo, {"tag_name": tag, "draft": draft, **fields}, "ada")
        for file, data in (assets or {}).items():
            asset = releases.new_asset(self, release, file, "application/zip", "", "ada")
            self.asset_path(asset["id"]).write_bytes(data)
            asset.update(size=len(data), state="uploaded", digest="sha256:" + hashlib.sha256(data).hexdigest())
        self.save()
        return release

    def fault(self, method: str, path: str, kind: str, times: int = 1, **options: Any) -> Fault:
        """Let requests go wrong; `method` and `path` are regular expressions."""
        self.faults.append(fault := Fault(method, path, kind, times, **options))
        return fault

    def count(self, method: str = ".*", path: str = "") -> int:
        """Return how many requests matched."""
        return sum(1 for r in self.requests if re.fullmatch(method, r.method) and re.search(path, r.path))

    def repo(self, name: str) -> dict[str, Any]:
        """Return a repository's state; a bare name is one of the organisation's."""
        return self.state["repos"][name if "/" in name else f"{self.org}/{name}"]

    def git(self, repo: dict[str, Any]) -> GitRepo:
        """Return a repository's Git data."""
        return GitRepo(self.root / "git" / repo["owner"] / f"{repo['name']}.git", repo["default_branch"])

    def head(self, name: str) -> list[dict[str, Any]]:
        """Return the commits of the default branch, newest first."""
        repo = self.repo(name)
        return self.git(repo).history(self.git(repo).ref(f"refs/heads/{repo['default_branch']}") or "")

    def assets(self, release: dict[str, Any]) -> list[dict[str, Any]]:
        """Return a release's assets, broken ones too."""
        return list(release["assets"].values())

    def asset_path(self, asset_id: int) -> Path:
        """Return the file that holds an asset's bytes."""
        folder = self.root / "assets"
        folder.mkdir(exist_ok=True)
        return folder / str(asset_id)

    # --- for the routes ------------------------------------------------------------------------------------------

    def take_fault(self, method: str, path: str) -> Fault | None:
        """Use up one of the faults that match."""
        with self.lock:
            for fault in self.faults:
                if fault.since and not any(re.search(fault.since, f"{r.method} {r.path}") for r in self.requests):
                    continue
                if fault.times > 0 and re.fullmatch(fault.method, method) and re.search(fault.path, path):
                    fault.times -= 1
                    return fault
        return None

    def next_id(self) -> int:
        """Return a number that nothing else has."""
        self.state["next_id"] += 1
        return self.state["next_id"]

    def now(self) -> str:
        """Return the time as GitHub writes it."""
        return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    def sign(self, asset_id: int) -> str:
        """Return an address in the storage that works without a token."""
        signature = secrets.token_hex(8)
        self.state["signatures"][signature] = asset_id
        return f"{self.storage_url}/release-assets/{asset_id}?sig={signature}"

    def save(self) -> None:
        """Write the state to disk."""
        part = self.root / f"state.{threading.get_ident()}.part"
        part.write_text(json.dumps(self.state))
        part.replace(self.root / "state.json")

    def remember(self, owner: str, repo: str) -> None:
        """Keep a repository's releases as they are now, for lists that lag behind."""
        if found := self.state["repos"].get(f"{owner}/{repo}"):
            self.before[f"{owner}/{repo}"] = json.dumps(found["releases"])

    def visible_repos(self, owner: str, can: set[str]) -> list[dict[str, Any]]:
        """Return an account's repositories that a token may see."""
        found = (r for r in self.state["repos"].values() if r["owner"] == owner)
        return [r for r in found if not r["private"] or {"private", "contents"} & can]

    def find_release(self, repo: dict[str, Any], release_id: str, can: set[str]) -> dict[str, Any]:
        """Return a release by number; a draft only to those who may push."""
        release = repo["releases"].get(str(release_id))
        if release is None or (release["draft"] and "contents" not in can):
            raise HubError(404)
        return release

    def find_asset(self, repo: dict[str, Any], asset_id: str, can: set[str]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the release and the asset of a number."""
        for release in repo["releases"].values():
            if asset := release["assets"].get(str(asset_id)):
                return self.find_release(repo, release["id"], can), asset
        raise HubError(404)
