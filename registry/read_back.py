"""What the registry really has: after the uploads, and again after the publication."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING

from registry import output
from registry.errors import ConflictError, IntegrityError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from registry.release_plan import LocalAsset
    from registry.stores import Asset, Release, Store

WAITS = (1.0, 2.0, 4.0, 8.0)  # seconds between two looks at a list that lags behind


def reread(store: Store, draft: Release, wanted: Sequence[LocalAsset]) -> Release:
    """Return the draft as the registry lists it, and only if it has every byte and no rival.

    What is not there yet is waited for: lists lag behind. Of two who release the same tag at once the one with the
    lower number goes on; the other deletes its draft and raises `ConflictError`.
    """

    def look(last: bool) -> Release | None:
        there = _listed(store, draft)
        if any(not r.draft for r in there):
            raise _lost(store, draft, there)
        rivals = [r for r in there if int(r.id) < int(draft.id) and r.commit in ("", draft.commit)]
        if rivals:
            store.delete_draft(draft)
            raise ConflictError(
                f"{draft.repo}: somebody else is releasing {draft.tag} at this moment",
                hint="wait until they are done, then run the same command again",
            )
        return _equal(store, next((r for r in there if r.id == draft.id), None), wanted, last=last)

    return _patiently(store, draft, look)


def read_back(store: Store, made: Release, wanted: Sequence[LocalAsset]) -> Release:
    """Return the published release as everybody sees it, and only if it is what was sent."""

    def look(last: bool) -> Release | None:
        found = next((r for r in _listed(store, made) if r.id == made.id), None)
        if found and found.draft:
            if last:
                raise IntegrityError(f"{made.repo}: {made.tag} is not public yet", hint="run the same command again")
            return None
        return _equal(store, found, wanted, last=last)

    found = _patiently(store, made, look)
    for local in wanted:
        asset = found.asset(local.name)
        if asset and asset.url.startswith("http"):
            _require_public(asset, local)
    return found


def publish_or_yield(store: Store, draft: Release, publish: Callable[[], Release]) -> Release:
    """Publish; where somebody else was faster, delete the draft and say so."""
    try:
        return publish()
    except (ConflictError, NotFoundError):
        there = _listed(store, draft)
        if any(not r.draft and r.id != draft.id for r in there):
            raise _lost(store, draft, there) from None
        raise


def _lost(store: Store, draft: Release, there: Sequence[Release]) -> ConflictError:
    """Leave the tag to whom has published it; of our own draft only what is still a draft is deleted."""
    if any(r.id == draft.id and r.draft for r in there):
        store.delete_draft(draft)
    return ConflictError(
        f"{draft.repo}: somebody else has published {draft.tag} at this moment",
        hint="run the same command again: it says whether it has the same bytes",
    )


def _listed(store: Store, release: Release) -> list[Release]:
    return [r for r in store.releases(release.repo) if r.tag == release.tag]


def _patiently(store: Store, release: Release, look: Callable[[bool], Release | None]) -> Release:
    """Look again and again: GitHub's lists lag behind what it just did. The last look is told that it is the last."""
    for seconds in (*WAITS, None):
        found = look(seconds is None)
        if found is not None:
            return found
        if seconds is not None:
            store.sleep(seconds)
    raise NotFoundError(f"{release.repo}: {release.tag} has gone from the registry", hint="run the same command again")


def _equal(store: Store, found: Release | None, wanted: Sequence[LocalAsset], *, last: bool) -> Release | None:
    """Return the release if it has all that was sent; None where it may still be coming."""
    if found is None:
        return None
    try:
        _require_equal(store, found, wanted)
    except IntegrityError:
        if last:
            raise
        return None
    return found


def _require_equal(store: Store, release: Release, wanted: Sequence[LocalAsset]) -> None:
    for local in wanted:
        asset = release.asset(local.name)
        if asset is None or not local.equals(with_digest(store, release, asset)):
            state = "public" if release.draft is False else "in the draft"
            raise IntegrityError(
                f"{release.repo}@{release.tag}: {local.name} is not {state} with the bytes that were sent",
                hint="run the same command again: it mends a draft",
            )


def _require_public(asset: Asset, local: LocalAsset) -> None:
    """Ask for an asset as a stranger would."""
    from registry.web import public_size

    size = public_size(asset.url)
    if size is None:
        output.warn(f"{asset.url} cannot be read without a token: SCT cannot install it (is the repository private?)")
    elif size != local.size:
        raise IntegrityError(f"{asset.url}: {size} bytes for strangers, {local.size} were sent", hint="try again later")


def with_digests(store: Store, release: Release) -> Release:
    """Fill in all digests of a release that the registry does not compute."""
    return replace(release, assets=tuple(with_digest(store, release, asset) for asset in release.assets))


def with_digest(store: Store, release: Release, asset: Asset) -> Asset:
    """Fill in the digest of an asset where the registry does not compute it, by reading it back."""
    if asset.sha256 or not asset.uploaded:
        return asset
    digest = hashlib.sha256()
    with store.open_asset(release, asset) as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return replace(asset, sha256=digest.hexdigest())
