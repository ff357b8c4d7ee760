"""The embedded registry: a plain folder with the same repositories, drafts and releases as a GitHub organisation.

root/model_seg_sc_t2/
  repo.json                      description, topics, labels, head of the default branch, latest release
  tree/                          the files of the first commit
  releases/r20260131/            release.json and assets/
  releases/.draft-7/             the same, not public yet; publishing renames the folder
"""

from __future__ import annotations

import os
import shutil
import time
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, BinaryIO

from filelock import FileLock

from registry.errors import ConflictError, IntegrityError, NotFoundError
from registry.files import write_json
from registry.stores import Asset, Release, RepoInfo
from registry.stores.contract import (
    LABELS,
    check_asset,
    check_description,
    check_repo_name,
    check_tag,
    check_topics,
    newest_first,
)
from registry.stores.first_commit import FirstCommit, read_first_commit
from registry.stores.folder_records import DRAFT, RepoRecord, copy, read_record, read_release, sweep, write_release

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path


class FolderStore:
    """A registry in a folder; safe for several processes at a time."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.location = f"dir:{self.root}"

    @property
    def sleep(self) -> Callable[[float], None]:
        """Return how to wait for this registry, in seconds."""
        return time.sleep

    def repos(self) -> Iterator[RepoInfo]:
        """Yield every repository, sorted by name."""
        if not self.root.is_dir():
            raise NotFoundError(f"{self.root}: no such registry", hint=f"mreg new NAME --registry {self.location}")
        for path in sorted(self.root.glob("*/repo.json")):
            yield self._info(read_record(path))

    def repo(self, name: str) -> RepoInfo:
        """Return one repository; raise `NotFoundError`."""
        return self._info(self._record(name))

    def create_repo(self, name: str, *, description: str, topics: tuple[str, ...]) -> RepoInfo:
        """Create an empty repository, or add what a half-made one lacks; what people wrote there stays."""
        description, topics = check_description(name, description), check_topics(name, topics)
        folder = self._folder(check_repo_name(name))
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "repo.json"
        with FileLock(folder / ".lock"):
            old = read_record(path) if path.is_file() else RepoRecord(name=name)
            new = replace(
                old,
                description=old.description or description,
                topics=sorted({*old.topics, *topics}),
                labels=sorted({*old.labels, *LABELS}),
            )
            if new != old:
                write_json(path, asdict(new))
        return self._info(new)

    def push_first_commit(self, name: str, worktree: Path) -> RepoInfo:
        """Copy the files of the working copy's first commit; refuse where the repository has other ones."""
        commit = read_first_commit(worktree)
        with self._locked(name):
            record = self._record(name)
            if record.tree == commit.tree:
                return self._info(record)
            if record.tree:
                raise ConflictError(
                    f"{name}: the registry {self.location} has other files than {worktree}",
                    hint="choose another name, or start from the registry's copy",
                )
            self._write_tree(name, commit)
            record = replace(record, commit=commit.sha, tree=commit.tree)
            write_json(self._folder(name) / "repo.json", asdict(record))
        return self._info(record)

    def files(self, name: str, commit: str = "") -> dict[str, int]:
        """Return the sizes of the repository's files by their paths."""
        self._require_head(name, commit)
        tree = self._folder(name) / "tree"
        found = (path for path in tree.rglob("*") if path.is_file() and path.resolve().is_relative_to(tree.resolve()))
        return {path.relative_to(tree).as_posix(): path.stat().st_size for path in sorted(found)}

    def _require_head(self, name: str, commit: str) -> None:
        """Refuse what a folder does not keep: other commits than the one that is there."""
        if commit not in ("", self._record(name).commit):
            raise NotFoundError(
                f"{name}: no commit {commit!r} in {self.location}", hint="a folder keeps the newest only"
            )

    def read_file(self, name: str, path: str, commit: str = "") -> bytes:
        """Return one file of the repository; raise `NotFoundError`."""
        self._require_head(name, commit)
        tree = self._folder(name) / "tree"
        file = tree / path
        if not file.is_file() or not file.resolve().is_relative_to(tree.resolve()):
            raise NotFoundError(f"{name}: no file {path!r} in the registry {self.location}")
        return file.read_bytes()

    def releases(self, repo: str) -> list[Release]:
        """Return the releases and drafts, newest tag first."""
        self._record(repo)
        found = []
        for path in (self._folder(repo) / "releases").glob("*/release.json"):
            try:
                found.append(read_release(path.parent, repo))
            except NotFoundError:  # published or deleted between the listing and the reading
                continue
        return newest_first(found)

    def newest_releases(self, repos: Sequence[str]) -> dict[str, list[Release]]:
        """Return the releases of several repositories."""
        return {repo: self.releases(repo) for repo in repos}

    def create_draft(self, repo: str, tag: str, *, title: str, notes: str, commit: str = "") -> Release:
        """Create a draft on a commit, "" for the repository's."""
        check_tag(repo, tag)
        with self._locked(repo):
            record = self._record(repo)
            if not record.commit:
                raise ConflictError(f"{repo}: the repository is empty", hint="push its first commit: mreg new")
            record = replace(record, last_id=record.last_id + 1)
            write_json(self._folder(repo) / "repo.json", asdict(record))
            release = Release(
                id=str(record.last_id),
                repo=repo,
                tag=tag,
                title=title,
                notes=notes,
                draft=True,
                commit=commit or record.commit,
            )
            folder = self._folder(repo) / "releases" / f"{DRAFT}{release.id}"
            write_release(folder, release)
            return read_release(folder, repo)

    def upload(
        self, release: Release, path: Path, progress: Callable[[int], None] | None = None, *, digest: str = ""
    ) -> Asset:
        """Copy a file into a draft under its own name; the digest told is that of the bytes that were written."""
        del digest
        check_asset(path)
        with self._draft(release, "take an asset") as (folder, current):
            if current.asset(path.name):
                raise ConflictError(
                    f"{release.repo}: the draft of {release.tag} has an asset {path.name} already",
                    hint="delete the asset first",
                )
            target = folder / "assets" / path.name
            size, written = copy(path, target, progress)
            asset = Asset(id=path.name, name=path.name, size=size, sha256=written, url=target.as_uri())
            write_release(folder, replace(current, assets=(*current.assets, asset)))
        return asset

    def delete_asset(self, release: Release, asset: Asset) -> None:
        """Delete an asset of a draft; one that has gone already is no error."""
        with self._draft(release, "lose an asset") as (folder, current):
            write_release(folder, replace(current, assets=tuple(a for a in current.assets if a.name != asset.name)))
            (folder / "assets" / asset.name).unlink(missing_ok=True)

    def publish(self, release: Release, *, latest: bool) -> Release:
        """Make a draft public under its tag; one that is public already is no error."""
        with self._locked(release.repo):
            folder = self._find(release)
            public = self._folder(release.repo) / "releases" / release.tag
            if folder != public:
                if public.exists():
                    raise ConflictError(
                        f"{release.repo}: a release {release.tag} is public already", hint="release under another tag"
                    )
                now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
                current = replace(read_release(folder, release.repo), published_at=now)
                sweep(folder, current)
                write_release(folder, current)
                folder.rename(public)
            if latest:
                record = replace(self._record(release.repo), latest=release.tag)
                write_json(self._folder(release.repo) / "repo.json", asdict(record))
            return read_release(public, release.repo)

    def delete_draft(self, release: Release) -> None:
        """Delete a draft with its assets; refuse a published release."""
        with self._draft(release, "be deleted") as (folder, _):
            (folder / "release.json").unlink()  # first, so that a kill leaves nothing that looks like a draft
            shutil.rmtree(folder)

    def set_notes(self, release: Release, notes: str) -> Release:
        """Replace the notes of a release."""
        with self._locked(release.repo):
            folder = self._find(release)
            write_release(folder, replace(read_release(folder, release.repo), notes=notes))
            return read_release(folder, release.repo)

    def open_asset(self, release: Release, asset: Asset, offset: int = 0) -> BinaryIO:
        """Open the bytes of an asset from `offset` on."""
        path = self._find(release) / "assets" / asset.name
        if not path.is_file():
            raise NotFoundError(f"{release.repo}: release {release.tag} has no asset {asset.name}")
        if offset > path.stat().st_size:
            raise IntegrityError(f"{path}: {path.stat().st_size} bytes, asked for byte {offset}")
        file = path.open("rb")
        file.seek(offset)
        return file

    def _folder(self, name: str) -> Path:
        return self.root / name

    def _record(self, name: str) -> RepoRecord:
        path = self._folder(check_repo_name(name)) / "repo.json"
        if not path.is_file():
            raise NotFoundError(
                f"{name}: no such repository in {self.location}", hint=f"mreg list --registry {self.location}"
            )
        return read_record(path)

    def _info(self, record: RepoRecord) -> RepoInfo:
        return RepoInfo(
            name=record.name,
            description=record.description,
            topics=tuple(record.topics),
            url=self._folder(record.name).as_uri(),
            default_branch=record.default_branch,
            commit=record.commit,
            archived=record.archived,
        )

    @contextmanager
    def _locked(self, repo: str) -> Iterator[None]:
        """Hold an existing repository against other writers.

        Reading needs no lock, since files and folders are renamed whole.
        """
        self._record(repo)
        with FileLock(self._folder(repo) / ".lock"):
            yield

    def _find(self, release: Release) -> Path:
        """Return the folder of a release by its id, whether it has been published meanwhile or not."""
        releases = self._folder(check_repo_name(release.repo)) / "releases"
        for folder in (releases / f"{DRAFT}{release.id}", releases / check_tag(release.repo, release.tag)):
            if (folder / "release.json").is_file() and read_release(folder, release.repo).id == release.id:
                return folder
        raise NotFoundError(f"{release.repo}: no release {release.tag} (id {release.id}) in {self.location}")

    @contextmanager
    def _draft(self, release: Release, what: str) -> Iterator[tuple[Path, Release]]:
        """Hold a draft; a published release cannot do `what`."""
        with self._locked(release.repo):
            folder = self._find(release)
            current = read_release(folder, release.repo)
            if not current.draft:
                raise ConflictError(
                    f"{release.repo}: release {release.tag} is public and cannot {what}",
                    hint="publish a new release instead",
                )
            yield folder, current

    def _write_tree(self, name: str, commit: FirstCommit) -> None:
        tree, new = self._folder(name) / "tree", self._folder(name) / ".tree.part"
        for leftover in (tree, new):  # of a call that was killed before repo.json said that it was done
            shutil.rmtree(leftover, ignore_errors=True)
        for file in commit.files:
            path = new / file.path
            path.parent.mkdir(parents=True, exist_ok=True)
            if file.mode == "120000":
                path.symlink_to(os.fsdecode(file.content))
            else:
                path.write_bytes(file.content)
                path.chmod(path.stat().st_mode | (0o111 if file.mode == "100755" else 0))
        new.mkdir(exist_ok=True)
        new.rename(tree)
