"""Git objects and refs in a bare repository on disk, so that `git --git-dir` can look at what the API made."""

from __future__ import annotations

import hashlib
import zlib
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


class GitRepo:
    """Loose objects and refs of one bare repository."""

    def __init__(self, path: Path, branch: str = "main") -> None:
        self.path = path
        if not path.exists():
            for folder in ("objects/info", "objects/pack", "refs/heads", "refs/tags"):
                (path / folder).mkdir(parents=True)
            (path / "HEAD").write_text(f"ref: refs/heads/{branch}\n")
            (path / "config").write_text("[core]\n\trepositoryformatversion = 0\n\tbare = true\n")

    @property
    def empty(self) -> bool:
        return not self.refs()

    def refs(self) -> dict[str, str]:
        files = (p for p in (self.path / "refs").rglob("*") if p.is_file())
        return {p.relative_to(self.path).as_posix(): p.read_text().strip() for p in files}

    def ref(self, name: str) -> str | None:
        path = self.path / name
        return path.read_text().strip() if path.is_file() else None

    def set_ref(self, name: str, sha: str) -> None:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(sha + "\n")

    def write(self, kind: str, content: bytes) -> str:
        data = f"{kind} {len(content)}\0".encode() + content
        sha = hashlib.sha1(data, usedforsecurity=False).hexdigest()
        path = self._object(sha)
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(zlib.compress(data, 1))
        return sha

    def read(self, sha: str, kind: str) -> bytes | None:
        """Return an object's content; None where there is none of that kind."""
        path = self._object(sha)
        if len(sha) != 40 or not path.is_file():
            return None
        head, _, content = zlib.decompress(path.read_bytes()).partition(b"\0")
        return content if head.decode().split()[0] == kind else None

    def entries(self, tree: str) -> list[tuple[str, str, str]]:
        """Return (mode, name, sha) of a tree's own entries."""
        content, found = self.read(tree, "tree") or b"", []
        while content:
            head, _, rest = content.partition(b"\0")
            mode, _, name = head.decode().partition(" ")
            found.append((mode, name, rest[:20].hex()))
            content = rest[20:]
        return found

    def files(self, tree: str, prefix: str = "") -> dict[str, tuple[str, str]]:
        """Return path → (mode, sha) of all files below a tree."""
        found = {}
        for mode, name, sha in self.entries(tree):
            if mode == "40000":
                found |= self.files(sha, f"{prefix}{name}/")
            else:
                found[prefix + name] = (mode, sha)
        return found

    def write_tree(self, files: dict[str, tuple[str, str]]) -> str:
        """Write the trees of path → (mode, sha) and return the root's name."""
        own: list[tuple[str, str, str]] = []
        folders: dict[str, dict[str, tuple[str, str]]] = {}
        for path, (mode, sha) in files.items():
            folder, slash, rest = path.partition("/")
            if slash:
                folders.setdefault(folder, {})[rest] = (mode, sha)
            else:
                own.append((mode, path, sha))
        own += [("40000", name, self.write_tree(below)) for name, below in folders.items()]
        own.sort(key=lambda e: e[1] + "/" if e[0] == "40000" else e[1])  # Git compares folders as if they ended in /
        return self.write("tree", b"".join(f"{m} {n}".encode() + b"\0" + bytes.fromhex(s) for m, n, s in own))

    def write_commit(self, tree: str, parents: list[str], message: str, author: dict, committer: dict) -> str:
        lines = [f"tree {tree}", *(f"parent {p}" for p in parents)]
        lines += [f"author {_signature(author)}", f"committer {_signature(committer)}", "", message]
        return self.write("commit", "\n".join(lines).encode())

    def commit(self, sha: str) -> dict | None:
        """Return a commit as tree, parents, author, committer, message."""
        content = self.read(sha, "commit")
        if content is None:
            return None
        head, _, message = content.decode().partition("\n\n")
        found: dict = {"sha": sha, "parents": [], "message": message}
        for line in head.split("\n"):
            key, _, value = line.partition(" ")
            if key == "parent":
                found["parents"].append(value)
            elif key in ("author", "committer"):
                who, seconds, _ = value.rsplit(" ", 2)
                name, _, email = who.partition(" <")
                date = datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
                found[key] = {"name": name, "email": email.rstrip(">"), "date": date}
            elif key == "tree":
                found["tree"] = value
        return found

    def history(self, sha: str) -> list[dict]:
        """Return the first-parent history, newest first."""
        found = []
        while sha and (commit := self.commit(sha)):
            found.append(commit)
            sha = commit["parents"][0] if commit["parents"] else ""
        return found

    def _object(self, sha: str) -> Path:
        return self.path / "objects" / sha[:2] / sha[2:]


def _signature(person: dict) -> str:
    moment = datetime.fromisoformat(person["date"])
    return f"{person['name']} <{person['email']}> {int(moment.timestamp())} {moment.strftime('%z') or '+0000'}"
