"""What changed between two releases of a model: `mreg diff`, and `mreg check --against`."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from registry import model_toml, notes, published, refs, snapshot_sources
from registry.changes import KINDS, Change
from registry.checks import remote
from registry.checks.repo import RepoFiles
from registry.checks.rules import printable
from registry.comparisons import COMPARISONS, same_bytes
from registry.errors import MregError, NotFoundError
from registry.findings import Finding
from registry.stores import open_store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from registry.snapshots import ModelFacts, Snapshot
    from registry.stores import Store
    from registry.tree import Tree

LATEST = "latest"


def findings(target: str | Path | Tree, ref: str, registry: str | None) -> Iterator[Finding]:
    """Yield what changed in a target since the release `ref`.

    `latest`, or a name without a tag, is the newest release that is not the target's own and not yanked; a model
    without one has a note. Changes that the target's model.toml accepts are notes. Raises `NotFoundError` for a ref
    that is none, and what reading the release can raise; a target that cannot be read is a finding.
    """
    try:
        new, accepted, registry = _subject(target, registry, asks=_in_registry(ref) is not None)
    except MregError as error:
        yield Finding(code="CHANGE010", message=printable(error.message), hint=error.hint)
        return
    old = previous(new, ref, registry)
    if old is None:
        yield Finding(code="CHANGE020", level="note", message=f"no release of {new.name or ref} to compare with")
        return
    own = {model.asset for model in new.models}
    found = [
        change
        for change in compare(old, snapshot_sources.with_siblings(new, target), registry)
        if not change.model or change.model in own
    ]
    for change in found:
        yield _finding(change, old, accepted=change.code in accepted)
    for code in accepted:
        if code not in {change.code for change in found}:
            message = f"accept names {code}, and nothing of that kind changed since {old.title}"
            hint = "take it out, or it will hide the next such change"
            yield Finding(code="CHANGE035", level="note", message=message, hint=hint, path=model_toml.FILE_NAME)


def compare(old: Snapshot, new: Snapshot, registry: str | None = None) -> list[Change]:
    """Return what changed; where the plans did, and only then, they are read out of the releases' archives."""
    said = [[model.plans_sha256 for model in snapshot.models] for snapshot in (old, new)]
    if said[0] != said[1] or None in said[0]:
        known = [any(m.network or m.plans_sha256 for m in snapshot.models) for snapshot in (old, new)]
        if all(known):
            old, new = (snapshot_sources.with_networks(snapshot, registry) for snapshot in (old, new))
    return changes(old, new)


def previous(new: Snapshot, ref: str, registry: str | None) -> Snapshot | None:
    """Return the release to compare with, None where a model has none yet."""
    parsed = _in_registry(ref, new.name)
    if parsed is None or parsed.tag:
        return snapshot_sources.read(ref, registry)
    if not parsed.name:
        raise MregError(f"{new.title}: nobody says which model this is", hint="name the release: --against NAME@TAG")
    store = open_store(registry)
    try:
        releases = published.list_releases(parsed.name, store)
    except NotFoundError:
        if ref == LATEST:  # a repo that nobody has published yet
            return None
        raise
    own = new.tag if parsed.name == new.name else ""
    good = [r for r in releases if not r.draft and r.tag != own and not notes.block_of(r).yanked]
    return snapshot_sources.of_release(store, good[0]) if good else None


def _in_registry(ref: str, name: str = "") -> refs.RepoRef | None:
    """Return the release that a ref means where it is one of a registry, None for a path or an address."""
    if ref == LATEST:
        return refs.RepoRef(name)
    parsed = None if "/" in ref else refs.parse(ref)
    return parsed if isinstance(parsed, refs.RepoRef) else None


def _subject(
    target: str | Path | Tree, registry: str | None, *, asks: bool
) -> tuple[Snapshot, tuple[str, ...], str | None]:
    """Return a target of `mreg check`, what its model.toml accepts, and the registry where its releases are.

    `asks`: whether the registry is asked for something anyway; else nobody goes to the network for a local file.
    """
    if not isinstance(target, str | Path):
        return snapshot_sources.of_tree(target), _accepted(RepoFiles(target, target.name)), registry
    if Path(target).exists():
        path = Path(target).resolve()
        try:
            repo = model_toml.find_repo(path)
        except MregError:  # outside a working copy: the draft that the release workflow has downloaded
            new = snapshot_sources.of_path(path)
            known = asks and new.name
            accepted = _accepted_at(open_store(registry), refs.RepoRef(new.name, new.tag)) if known else ()
            return new, accepted, registry
        return snapshot_sources.of_path(path), repo.toml.release.accept, registry
    named = remote.REPOSITORY.fullmatch(str(target))
    if named:
        registry = f"github:{named[1]}"
    parsed = refs.RepoRef(named[2]) if named else refs.parse(str(target))
    if not isinstance(parsed, refs.RepoRef):
        return snapshot_sources.read(str(target), registry), (), registry
    store = open_store(registry)
    if parsed.tag:
        return snapshot_sources.read(str(target), registry), _accepted_at(store, parsed), registry
    from registry.remote_tree import RemoteTree

    files = RepoFiles(RemoteTree(store, parsed.name, named[3] or "" if named else ""), parsed.name)
    return snapshot_sources.of_tree(files.tree), _accepted(files), registry


def _accepted_at(store: Store, ref: refs.RepoRef) -> tuple[str, ...]:
    """Return what the repo's model.toml accepted when a release was published; nothing where it had none."""
    for commit in (ref.tag, ""):  # a folder keeps the newest commit only
        try:
            content = store.read_file(ref.name, model_toml.FILE_NAME, commit).decode()
            return model_toml.validate(tomllib.loads(content)).release.accept
        except (MregError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError):
            continue
    return ()


def _accepted(files: RepoFiles) -> tuple[str, ...]:
    return () if isinstance(files.toml, MregError) else files.toml.release.accept


def _finding(change: Change, old: Snapshot, *, accepted: bool) -> Finding:
    kind = KINDS[change.code]
    step = f"{change.old} in {old.title}, {change.new} now"
    if change.old == change.new:
        step = f"{change.new} as in {old.title}"
    message = f"{change.what}: {step} ({change.meaning})"
    hint = ""
    if accepted:
        message += "; accepted in model.toml"
    elif kind.breaking:
        hint = f'if it is meant, tell the users, and in model.toml under [release]: accept = ["{change.code}"]'
    path, line = change.place
    return Finding(
        code=change.code,
        level="note" if accepted else kind.level,
        path=printable(path or change.model),
        line=line,
        message=printable(message),
        hint=hint,
    )


def changes(old: Snapshot, new: Snapshot) -> list[Change]:
    """Return what changed, breaking changes first; facts that one of the two does not have are left out."""
    found = list(_release(old, new))
    pairs, gone, added = _paired(old.models, new.models)
    several = len(old.models) > 1 or len(new.models) > 1
    for before, after in pairs:
        for compare in (*COMPARISONS, *[same_bytes] * (old.tag != new.tag)):
            found += [replace(c, model=after.asset * several) for c in compare(before, after)]
    found += [Change(code="CHANGE008", what="archive", old=model.asset, new="none") for model in gone]
    found += [Change(code="CHANGE030", what="archive", old="none", new=model.asset) for model in added]
    return sorted(found, key=lambda change: change.code)


def _paired(
    old: tuple[ModelFacts, ...], new: tuple[ModelFacts, ...]
) -> tuple[list[tuple[ModelFacts, ModelFacts]], list[ModelFacts], list[ModelFacts]]:
    """Pair the archives of two releases by name without tag, variant, or trainer folder; one and one always fit."""
    if len(old) == len(new) == 1:
        return [(old[0], new[0])], [], []
    pairs, left = [], list(new)
    for before in old:
        same: list[Callable[[ModelFacts, ModelFacts], bool]] = [
            lambda a, b: a.variant == b.variant and a.trainer_folder == b.trainer_folder and a.folds == b.folds,
            lambda a, b: a.asset == b.asset,
            lambda a, b: bool(a.variant) and a.variant == b.variant,
        ]
        match = next((after for test in same for after in left if test(before, after)), None)
        if match is not None:
            left.remove(match)
            pairs.append((before, match))
    paired = [before for before, _ in pairs]
    return pairs, [model for model in old if model not in paired], left


def _release(old: Snapshot, new: Snapshot) -> Iterator[Change]:
    if old.name and new.name and old.name != new.name:
        reason = "SCT's address of the model changes; a redirect ends where the old name is taken again"
        yield Change(code="CHANGE033", what="name", old=old.name, new=new.name, reason=reason)
    if old.licence is not None and new.licence is not None and old.licence != new.licence:
        reason = "what users may do with it changes"
        yield Change(code="CHANGE033", what="licence", old=old.licence, new=new.licence, reason=reason)
