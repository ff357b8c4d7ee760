"""Git in a new model's folder: the repository, its one commit and its address."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from registry import git
from registry.errors import MregError

if TYPE_CHECKING:
    from pathlib import Path

BRANCH = "main"
FALLBACK_EMAIL = "mreg@localhost"


def has_commit(folder: Path) -> bool:
    """Whether the folder is the root of a Git repository that has a commit."""
    return (folder / ".git").exists() and git.answer(folder, "rev-parse", "--verify", "--quiet", "HEAD") != ""


def commit_files(folder: Path, files: list[str], *, message: str, author: str) -> None:
    """Make the folder a Git repository on `main` with one commit of these files.

    The user's own identity is used where git has one; `author` stands in for a missing name. No configuration changes.
    """
    _git(folder, "init", "--quiet", f"--initial-branch={BRANCH}")
    _git(folder, "symbolic-ref", "HEAD", f"refs/heads/{BRANCH}")
    _git(folder, "-c", "core.autocrlf=false", "add", "--force", "--", *files)
    identity = _identity(folder, author)
    # A hook of the user's template is for their own commits.
    _git(folder, *identity, "commit", "--quiet", "--no-verify", "--message", message)


def add_origin(folder: Path, url: str) -> None:
    """Let `git push` reach the registry's repository, where that is a web address and no remote is named so yet."""
    if url.startswith(("https://", "http://")) and not git.answer(folder, "remote", "get-url", "origin"):
        _git(folder, "remote", "add", "origin", f"{url}.git")


def _identity(folder: Path, author: str) -> list[str]:
    """Return flags for what the user has not configured; git's own guess would be made of login and host name."""
    flags = []
    for key, value, variables in (
        ("user.name", author, ("GIT_AUTHOR_NAME", "GIT_COMMITTER_NAME")),
        ("user.email", FALLBACK_EMAIL, ("GIT_AUTHOR_EMAIL", "GIT_COMMITTER_EMAIL")),
    ):
        said = all(os.environ.get(variable) for variable in variables)
        if not said and not git.answer(folder, "config", key):
            flags += ["-c", f"{key}={value}"]
    return flags


def _git(folder: Path, *arguments: str) -> None:
    done = git.run(folder, *arguments)
    if done.returncode:
        said = git.complaint(done)
        raise MregError(
            f"{folder}: git {' '.join(arguments[:3])} failed: {said}", hint="mend it, then run mreg new again"
        )
