"""Git in a new model's folder: the repository, its one commit and its address."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

from registry.errors import MregError

if TYPE_CHECKING:
    from pathlib import Path

BRANCH = "main"
FALLBACK_EMAIL = "mreg@localhost"
# Inside a hook git points these at another repository.
FOREIGN = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_COMMON_DIR", "GIT_PREFIX")


def has_commit(folder: Path) -> bool:
    """Whether the folder is the root of a Git repository that has a commit."""
    return (folder / ".git").exists() and _run(folder, "rev-parse", "--verify", "--quiet", "HEAD").returncode == 0


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
    if url.startswith(("https://", "http://")) and _run(folder, "remote", "get-url", "origin").returncode:
        _git(folder, "remote", "add", "origin", f"{url}.git")


def _identity(folder: Path, author: str) -> list[str]:
    """Return flags for what the user has not configured; git's own guess would be made of login and host name."""
    flags = []
    for key, value, variables in (
        ("user.name", author, ("GIT_AUTHOR_NAME", "GIT_COMMITTER_NAME")),
        ("user.email", FALLBACK_EMAIL, ("GIT_AUTHOR_EMAIL", "GIT_COMMITTER_EMAIL")),
    ):
        said = all(os.environ.get(variable) for variable in variables)
        if not said and not _run(folder, "config", key).stdout.strip():
            flags += ["-c", f"{key}={value}"]
    return flags


def _git(folder: Path, *arguments: str) -> None:
    done = _run(folder, *arguments)
    if done.returncode:
        said = done.stderr.strip().removeprefix("fatal: ")
        raise MregError(
            f"{folder}: git {' '.join(arguments[:3])} failed: {said}", hint="mend it, then run mreg new again"
        )


def _run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key not in FOREIGN} | {"LC_ALL": "C"}
    try:
        return subprocess.run(
            ["git", "-C", str(folder), *arguments],
            env=environment, capture_output=True, text=True, errors="replace", check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except FileNotFoundError:
        raise MregError("git is not installed", hint="install git; a model's repo is a Git repository") from None
