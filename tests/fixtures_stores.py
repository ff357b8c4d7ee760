"""Both kinds of registry, and working copies to push into them."""

import os
import subprocess
from pathlib import Path

import pytest

NAME = "model_seg_sc_t2"


def git(folder: Path, *args: str) -> str:
    """Run git as a person who has no configuration."""
    who = {"GIT_AUTHOR_NAME": "Ada Løvelace", "GIT_AUTHOR_EMAIL": "ada@example.org", "GIT_CONFIG_GLOBAL": os.devnull}
    who |= {"GIT_COMMITTER_NAME": "Bob", "GIT_COMMITTER_EMAIL": "bob@example.org", "GIT_CONFIG_SYSTEM": os.devnull}
    dates = {"GIT_AUTHOR_DATE": "2026-01-31T12:00:00+0530", "GIT_COMMITTER_DATE": "2026-01-31T23:30:00-0200"}
    command = ["git", "-C", str(folder), *args]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env={**os.environ, **who, **dates})
    return done.stdout.strip()


def new_worktree(folder: Path, files: dict[str, bytes]) -> Path:
    """Write files into a new Git repository and commit them."""
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    git(folder, "init", "--quiet", "--initial-branch=main")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "First commit\n\nwith a body")
    return folder


@pytest.fixture
def worktree(tmp_path):
    """A working copy with text, bytes, an empty file, a program, a link, a workflow and a name that is not ASCII."""
    folder = tmp_path / "worktree"
    folder.mkdir()
    (folder / "run.sh").write_text("#!/bin/sh\n")
    (folder / "run.sh").chmod(0o755)
    (folder / "link").symlink_to("README.md")
    files = {
        "README.md": "# Modèle\n".encode(),
        "figures/t2.png": bytes(range(256)),
        "empty.txt": b"",
        "docs/Übersicht 1.md": b"text\r\nwith two kinds of ends\n",
        ".github/workflows/check.yml": b"on: pull_request\n",
    }
    return new_worktree(folder, files)


@pytest.fixture(params=["dir", "github"])
def store(request, tmp_path):
    """An empty registry of each kind, with the right to write."""
    if request.param == "dir":
        from registry.stores.folder import FolderStore

        (tmp_path / "registry").mkdir()
        return FolderStore(tmp_path / "registry")
    from registry.stores.github import GitHubStore

    hub = request.getfixturevalue("hub")
    request.getfixturevalue("hub_token")
    return GitHubStore(hub.org)


@pytest.fixture
def github(hub, hub_token):
    """The GitHub registry alone, for what only GitHub can do wrong."""
    from registry.stores.github import GitHubStore

    return GitHubStore(hub.org)
