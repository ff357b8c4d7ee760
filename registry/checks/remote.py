"""Targets that are not on this machine: an archive at an address, a repository without a clone, a published release."""

from __future__ import annotations

import re
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from registry import partial, published, refs
from registry.errors import MregError, NotFoundError
from registry.findings import Finding
from registry.manifest import MANIFEST_NAME

if TYPE_CHECKING:
    from collections.abc import Iterator

    from registry.stores import Asset, Release, Store

REPOSITORY = re.compile(r"([A-Za-z0-9][A-Za-z0-9-]*)/([A-Za-z0-9_.-]+?)(?:@(.+))?")
NOT_READ = "REMOTE001"
KINDS = {NOT_READ: "members of an archive at an address that were not read"}


def findings(target: str, *, full: bool, registry: str | None) -> Iterator[Finding]:
    """Yield all findings on a target that is no path."""
    from registry.stores import open_store

    named = REPOSITORY.fullmatch(target)
    if named and not Path(target).parent.exists():
        yield from _repository(open_store(f"github:{named[1]}"), named[2], named[3] or "")
        return
    ref = refs.parse(target)
    if isinstance(ref, refs.UrlRef):
        yield from _address(ref, full=full)
    elif isinstance(ref, refs.FileRef):
        raise NotFoundError(f"{target}: no such file or folder", hint="name a repo, dataset, run or archive")
    elif ref.tag:
        yield from _release(open_store(registry), ref, full=full)
    else:
        yield from _repository(open_store(registry), ref.name, "")


def _repository(store: Store, name: str, commit: str) -> Iterator[Finding]:
    """Check a repository through the registry's API."""
    from registry.checks import repo
    from registry.remote_tree import RemoteTree

    tree = RemoteTree(store, name, commit)
    if not tree.exists("model.toml"):
        raise MregError(
            f"{store.location}: {name}{f'@{commit}' * bool(commit)} has no model.toml, it is no model's repository",
            hint=f"its releases can be checked: mreg check {name}@TAG",
        )
    yield from repo.tree_findings(repo.RepoFiles(tree, name))


def _address(ref: refs.UrlRef, *, full: bool) -> Iterator[Finding]:
    from registry import web

    ranges = web.Ranges(ref.url)
    try:
        if ranges.size:
            yield from _archive(ranges.name, partial.Reader(ranges.read, ranges.size), full=full)
            return
    finally:
        ranges.close()
    name, source, close = web.open_address(ref)  # the server knows no ranges
    try:
        with tempfile.TemporaryDirectory(prefix="mreg-check-") as folder:
            path = Path(folder, name)
            with source.open(0) as stream, path.open("wb") as file:
                shutil.copyfileobj(stream, file, partial.PIECE)
            yield from _whole(path)
    finally:
        close()


def _whole(path: Path) -> Iterator[Finding]:
    from registry.checks import archive

    yield from archive.findings(path)


def _archive(
    name: str, reader: partial.Reader, *, full: bool, beside: dict[str, bytes] | None = None
) -> Iterator[Finding]:
    """Check an archive of which only what is small is read, unless `full`; `beside` are files that lie next to it."""
    from registry.checks import archive

    with tempfile.TemporaryDirectory(prefix="mreg-check-") as folder:
        path = Path(folder, name)
        left_out = partial.copy(reader, path, full=full)
        for other, content in (beside or {}).items() if full else ():
            Path(folder, other).write_bytes(content)
        for finding in archive.findings(path):
            if finding.path not in left_out:
                yield finding
    if left_out:
        size = sum(left_out.values()) / 1e6
        yield Finding(
            code=NOT_READ,
            level="note",
            message=f"not read: {', '.join(sorted(left_out))} ({size:.0f} MB)",
            hint="--full reads everything",
        )


def _release(store: Store, ref: refs.RepoRef, *, full: bool) -> Iterator[Finding]:
    """Check a published release: its own rules, and its archives."""
    from registry.checks import release

    releases = published.list_releases(ref.name, store)
    found = published.find_published(ref, releases, store.location)
    subject = release.Published.of(store, ref.name, found, releases)
    yield from release.findings(subject)
    beside = {} if subject.manifest_bytes is None else {MANIFEST_NAME: subject.manifest_bytes}
    for asset in found.assets:
        if asset.name.endswith(".zip"):
            reader = asset_reader(store, found, asset)
            for finding in _archive(asset.name, reader, full=full, beside=beside):
                yield replace(finding, path=f"{asset.name}/{finding.path}".rstrip("/"))


def asset_reader(store: Store, release: Release, asset: Asset) -> partial.Reader:
    """Return a reader of a published asset, by ranges where its address knows them."""

    def read(first: int, last: int) -> bytes:
        with store.open_asset(release, asset, first) as stream:
            return partial.exactly(stream, last - first + 1)

    if asset.url.startswith("http"):
        from registry import web

        try:
            ranges = web.Ranges(asset.url)
        except MregError:  # a private repository's: only the API, which knows our token, gives it
            return partial.Reader(read, asset.size)
        if ranges.size == asset.size:
            return partial.Reader(ranges.read, asset.size)
    return partial.Reader(read, asset.size)
