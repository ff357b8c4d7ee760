"""Which release a name means, what its manifest says, and which archives it has."""

from __future__ import annotations

import difflib
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from registry import notes, output
from registry.errors import IntegrityError, MregError, NotFoundError
from registry.manifest import MANIFEST_NAME, Manifest
from registry.manifest import parse as parse_manifest
from registry.near import meant

if TYPE_CHECKING:
    from collections.abc import Iterable

    from registry.refs import RepoRef
    from registry.stores import Asset, Release, Store

MAX_MANIFEST_BYTES = 4 << 20


@dataclass(frozen=True, kw_only=True)
class Archive:
    """One archive of a release, and what the release promises of it."""

    release: Release
    asset: Asset
    manifest: Manifest | None  # None: not made with mreg
    sha256: str  # "" where neither manifest nor server knows it


def resolve(ref: RepoRef, store: Store) -> Release:
    """Return the published release that a ref means; say so where it is yanked."""
    return pick(ref, list_releases(ref.name, store), store.location)


def pick(ref: RepoRef, releases: Iterable[Release], location: str) -> Release:
    """Return one of a model's releases, which stand newest first: the tag's, else the newest that is not yanked."""
    public = [release for release in releases if not release.draft]
    if not ref.tag:
        return _newest_good(ref.name, public, location)
    found = find_published(ref, public, location)
    reason = notes.block_of(found).yanked
    if reason:
        output.warn(f"{ref} is yanked and should not be used any more: {reason}")
        better = next((r.tag for r in public if not notes.block_of(r).yanked), "")
        output.say(f"newest good release: {ref.name}@{better}" if better else "no good release is left")
    return found


def find_published(ref: RepoRef, releases: Iterable[Release], location: str) -> Release:
    """Return the published release of a tag, yanked or not; raise `NotFoundError` with the tags that look like it."""
    public = [release for release in releases if not release.draft]
    found = next((release for release in public if release.tag == ref.tag), None)
    if found is None:
        tags = [release.tag for release in public]
        there = ", ".join(difflib.get_close_matches(ref.tag, tags, n=3) or tags[:3])
        hint = f"there are: {there}" if there else "it has no published release yet"
        raise NotFoundError(f"{ref.name}: no published release {ref.tag} in {location}", hint=hint)
    return found


def _newest_good(name: str, public: list[Release], location: str) -> Release:
    for release in public:
        reason = notes.block_of(release).yanked
        if not reason:
            return release
        output.say(f"{name}@{release.tag} is yanked and passed over: {reason}")
    if public:
        hint = f"a yanked one can be had by its tag: {name}@{public[0].tag}"
        raise NotFoundError(f"{name}: every release in {location} is yanked", hint=hint)
    raise NotFoundError(f"{name}: no published release in {location}", hint="publish one: mreg release")


def require_file_name(name: str) -> str:
    """Return an asset's name, which becomes a file here; raise `IntegrityError` where a registry would lead us away."""
    if not name or name.startswith(".") or any(character in name for character in "/\\\0"):
        raise IntegrityError(f"{name!r} cannot be the name of an asset", hint="do not use this registry")
    return name


def read_manifest(store: Store, release: Release) -> Manifest | None:
    """Return the manifest of a release, None where it has none; raise `IntegrityError` for a broken one."""
    asset = release.asset(MANIFEST_NAME)
    if asset is None:
        return None
    where = f"{release.repo}@{release.tag}: {MANIFEST_NAME}"
    with store.open_asset(release, asset) as stream:
        data = stream.read(MAX_MANIFEST_BYTES)
        while len(data) < MAX_MANIFEST_BYTES and (more := stream.read(MAX_MANIFEST_BYTES - len(data))):
            data += more
    if asset.sha256 and hashlib.sha256(data).hexdigest() != asset.sha256:
        raise IntegrityError(f"{where}: other bytes than were published", hint="try again")
    manifest = parse_manifest(data, where)
    if manifest.tag != release.tag:  # the name may differ: repositories are renamed
        raise IntegrityError(f"{where}: is the manifest of {manifest.name}@{manifest.tag}", hint="do not use it")
    return manifest


def list_releases(name: str, store: Store) -> list[Release]:
    """List the releases; for an unknown name say which known one looks like it."""
    try:
        return store.releases(name)
    except NotFoundError as error:
        near = meant(name, [info.name for info in store.repos()])
        if not near:
            raise
        raise NotFoundError(error.message, hint=near) from error


def find_archives(ref: RepoRef, store: Store, asset: str = "") -> list[Archive]:
    """Return the archive of a release: the one asked for, the manifest's, or the only zip; or one for each fold."""
    release = resolve(ref, store)
    manifest = read_manifest(store, release)
    parts = [model.asset for model in manifest.parts] if manifest and not asset else []
    chosen = [_choose(release, name, manifest) for name in parts or [asset]]
    if manifest is None:
        output.warn(f"{release.repo}@{release.tag} has no {MANIFEST_NAME}: not made with mreg, nobody has checked it")
    return [_promised(release, one, manifest) for one in chosen]


def _promised(release: Release, chosen: Asset, manifest: Manifest | None) -> Archive:
    """Hold the manifest's digest against the registry's."""
    promised = manifest.sha256_of(chosen.name) if manifest else ""
    if promised and chosen.sha256 and promised != chosen.sha256:
        raise IntegrityError(
            f"{release.repo}@{release.tag}: {chosen.name} is not the file that its manifest names "
            f"(SHA-256 {chosen.sha256}, expected {promised})",
            hint="do not use it; tell the people who published it",
        )
    known = promised or chosen.sha256
    if not known:
        output.warn(f"{release.repo}@{release.tag}: nobody knows the SHA-256 of {chosen.name}: not verified")
    return Archive(release=release, asset=chosen, manifest=manifest, sha256=known)


def _choose(release: Release, name: str, manifest: Manifest | None) -> Asset:
    where = f"{release.repo}@{release.tag}"
    there = sorted(asset.name for asset in release.assets if asset.uploaded)
    zips = [n for n in there if n.lower().endswith(".zip")]
    candidates = [name] if name else manifest.archives if manifest else zips
    if len(candidates) > 1:
        raise several_archives(where, candidates)
    found = release.asset(candidates[0]) if candidates else None
    if found is None:
        missing = f"no asset {candidates[0]}" if candidates else "no archive"
        hint = f"it has: {', '.join(there)}" if there else f"it has no asset at all: {release.url}"
        raise NotFoundError(f"{where}: {missing}", hint=hint)
    return found


def several_archives(where: str, names: list[str]) -> MregError:
    """Return the error for whoever has not said which."""
    return MregError(f"{where} has {len(names)} archives: {', '.join(names)}", hint=f"choose: --asset {names[0]}")
