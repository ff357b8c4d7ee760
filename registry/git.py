"""Git, asked about one folder: inside a hook, by itself, it would speak of the repository that the hook belongs to."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

from registry.errors import MregError

if TYPE_CHECKING:
    from pathlib import Path

# What a hook sets, and what would lead git elsewhere.
FOREIGN = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_COMMON_DIR", "GIT_PREFIX")


def run(
    folder: Path, *arguments: str, stdin: bytes = b"", variables: dict[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run git in a folder, whatever it answers; raise `MregError` where it is not installed."""
    ours = {key: value for key, value in os.environ.items() if key not in FOREIGN}
    environment = {**ours, "LC_ALL": "C", **(variables or {})}
    command = ["git", "-C", str(folder), *arguments]
    try:
        return subprocess.run(command, input=stdin, capture_output=True, env=environment, check=False)
    except FileNotFoundError:
        raise MregError("git is not installed", hint="install git; a model's repo is a Git repository") from None


def complaint(done: subprocess.CompletedProcess[bytes]) -> str:
    """Return why git refused, in its own words."""
    return done.stderr.decode(errors="replace").strip().removeprefix("fatal: ")


def answer(folder: Path, *arguments: str) -> str:
    """Return what git prints, "" where it refuses or is not installed."""
    try:
        done = run(folder, *arguments)
    except MregError:
        return ""
    return "" if done.returncode else done.stdout.decode(errors="replace").strip()
