"""The first commit of a working copy, read with git: what a new repository starts with."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from registry import git
from registry.errors import MregError, NotFoundError


@dataclass(frozen=True)
class CommittedFile:
    """One file of a commit: its path with forward slashes, Git's mode (100644, 100755, 120000), blob and bytes."""

    path: str
    mode: str
    sha: str
    content: bytes


@dataclass(frozen=True, kw_only=True)
class Person:
    """Author or committer, with the moment in ISO 8601 and its own offset to UTC."""

    name: str
    email: str
    date: str


@dataclass(frozen=True, kw_only=True)
class FirstCommit:
    """A commit without parents."""

    sha: str
    tree: str
    message: str
    author: Person
    committer: Person
    signature: str  # "" where it is not signed
    files: tuple[CommittedFile, ...]


def read_first_commit(worktree: Path) -> FirstCommit:
    """Read the root commit of the working copy's current branch.

    Raises `NotFoundError` where the folder is no Git repository of its own or has no commit.
    """
    top = _git(worktree, "rev-parse", "--show-toplevel").decode().rstrip("\n")
    if Path(top).resolve() != worktree.resolve():
        raise NotFoundError(
            f"{worktree}: not a Git repository of its own (it lies inside {top})", hint=f"git init {worktree}"
        )
    sha = _git(worktree, "rev-list", "--max-parents=0", "HEAD").decode().split()[-1]
    headers, message = _split_commit(_git(worktree, "cat-file", "commit", sha).decode("utf-8", "replace"))
    return FirstCommit(
        sha=sha,
        tree=headers["tree"],
        message=message,
        author=_person(headers["author"]),
        committer=_person(headers["committer"]),
        signature=headers.get("gpgsig", ""),
        files=_files(worktree, sha),
    )


def _split_commit(text: str) -> tuple[dict[str, str], str]:
    head, _, message = text.partition("\n\n")
    headers: dict[str, str] = {}
    key = ""
    for line in head.split("\n"):
        if line.startswith(" "):  # a signature goes on over several lines
            headers[key] += "\n" + line[1:]
        else:
            key, _, headers_value = line.partition(" ")
            headers[key] = headers_value
    return headers, message


def _person(text: str) -> Person:
    """Parse `Ada Lovelace <ada@example.org> 1795236962 +0100`."""
    from datetime import UTC, datetime, timedelta, timezone

    who, seconds, offset = text.rsplit(" ", 2)
    name, _, email = who.partition(" <")
    minutes = int(offset[1:3]) * 60 + int(offset[3:5])
    zone = timezone(timedelta(minutes=-minutes if offset[0] == "-" else minutes))
    moment = datetime.fromtimestamp(int(seconds), UTC).astimezone(zone)
    return Person(name=name, email=email.removesuffix(">"), date=moment.isoformat())


def _files(worktree: Path, sha: str) -> tuple[CommittedFile, ...]:
    entries = []
    for line in _git(worktree, "ls-tree", "-r", "-z", "--full-tree", sha).split(b"\0")[:-1]:
        head, _, path = line.partition(b"\t")
        mode, kind, blob = head.decode().split()
        if kind != "blob":
            raise MregError(f"{worktree / os.fsdecode(path)}: a submodule cannot be part of a model's first commit")
        entries.append((os.fsdecode(path), mode, blob))
    contents = _blobs(worktree, [blob for _, _, blob in entries])
    return tuple(CommittedFile(*entry, content) for entry, content in zip(entries, contents, strict=True))


def _blobs(worktree: Path, shas: list[str]) -> list[bytes]:
    """Read blobs with one process; git answers each with `SHA blob SIZE`, the bytes and a line end."""
    answer = _git(worktree, "cat-file", "--batch", stdin="\n".join(shas).encode())
    contents, start = [], 0
    for _ in shas:
        end = answer.index(b"\n", start)
        size = int(answer[start:end].split()[2])
        contents.append(answer[end + 1 : end + 1 + size])
        start = end + 1 + size + 1
    return contents


def _git(worktree: Path, *args: str, stdin: bytes = b"") -> bytes:
    done = git.run(worktree, *args, stdin=stdin)
    if done.returncode:
        raise NotFoundError(
            f"{worktree}: no first commit to publish: {git.complaint(done)}",
            hint=f"commit first: git -C {worktree} commit",
        )
    return done.stdout
