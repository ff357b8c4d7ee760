"""A package of the tiny run, and registries that have releases."""

import shutil
from pathlib import Path
from typing import NamedTuple

import pytest
from fixtures_stores import NAME, new_worktree

TAG = "r20260131"


class TinyPackage(NamedTuple):
    """An archive and its manifest."""

    archive: Path
    manifest: Path


@pytest.fixture(scope="session")
def tiny_package(tiny_run, tmp_path_factory) -> TinyPackage:
    """The package of the tiny run, shared by all tests."""
    from registry import archive
    from registry.model_toml import find_repo
    from registry.runs import read_run

    out = tmp_path_factory.mktemp("package") / TAG
    made = archive.build(read_run(tiny_run), NAME, TAG, out, repo=find_repo(tiny_run))
    return TinyPackage(made.archive, made.manifest)


def add_repo(store, folder: Path, name: str = NAME, description: str = "Spinal cord on T2w"):
    """Create a repository with one commit."""
    folder.mkdir(parents=True)
    new_worktree(folder, {"README.md": f"# {name}\n".encode()})
    store.create_repo(name, description=description, topics=())
    store.push_first_commit(name, folder)


def publish(store, tag: str, *files: Path, name: str = NAME, notes: str = ""):
    """Publish files as a release, without any of mreg's own care."""
    draft = store.create_draft(name, tag, title=tag, notes=notes)
    for file in files:
        store.upload(draft, file)
    return store.publish(draft, latest=True)


@pytest.fixture
def registry(store, tmp_path):
    """A registry of each kind with one repository and no release."""
    add_repo(store, tmp_path / "first-commit")
    return store


@pytest.fixture
def released_github(github, tiny_package, tmp_path):
    """The GitHub registry with one release."""
    add_repo(github, tmp_path / "first-commit")
    publish(github, TAG, *tiny_package)
    return github


@pytest.fixture
def released(registry, tiny_package):
    """A registry of each kind with one release: archive and manifest."""
    publish(registry, TAG, *tiny_package)
    return registry


@pytest.fixture
def packed_repo(repo_with_run, tiny_package):
    """A repo with a run, and its package of TAG in dist, which is newer."""
    from registry.model_toml import find_repo

    dist = repo_with_run / "dist" / TAG
    dist.mkdir(parents=True)
    for file in tiny_package:
        shutil.copyfile(file, dist / file.name)
    return find_repo(repo_with_run)


@pytest.fixture
def no_waiting(monkeypatch):
    """A registry whose lists do not lag behind."""
    from registry import read_back

    monkeypatch.setattr(read_back, "WAITS", (0.0, 0.0))


@pytest.fixture
def no_torch(monkeypatch):
    """A machine where archives cannot be run, which takes seconds."""
    from registry import workers

    monkeypatch.setattr(workers, "installed", lambda: False)
