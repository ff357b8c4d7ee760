"""What the registry really has: after the uploads, and again after the publication."""

from __future__ import annotations

import hashlib
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from registry import output
from registry.errors import ConflictError, IntegrityError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from registry.release_plan import LocalAsset
    from registry.stores import Asset, Release, Store

WAITS = (1.0, 2.0, 4.0, 8.0)  # seconds between two looks at a list that lags behind


def reread(store: Store, draft: Release, wanted: Sequence[LocalAsset]) -> Release:
    """Return the draft as the registry lists it, and only if it has every byte and no rival."""
    there = [r for r in _listed(store, draft) if r.draft]
    rival = min(there, key=lambda r: int(r.id))
    if rival.id != draft.id and rival.commit in ("", draft.commit):
        store.delete_draft(draft)
        raise ConflictError(
            f"{draft.repo}: somebody else is releasing {draft.tag} at this moment",
            hint="wait until they are done, then run the same command again",
        )
    found = next(r for r in there if r.id == draft.id)
    _require_equal(store, found, wanted)
    return found


def read_back(store: Store, made: Release, wanted: Sequence[LocalAsset]) -> Release:
    """Return the published release as everybody sees it, and only if it is what was sent."""
    found = next((r for r in _listed(store, made) if r.id == made.id), None)
    if found is None or found.draft:
        raise IntegrityError(f"{made.repo}: {made.tag} is not public yet", hint="run the same command again")
    _require_equal(store, found, wanted)
    for local in wanted:
        asset = found.asset(local.name)
        if asset and asset.url.startswith("http"):
            _require_public(asset, local)
    return found


def _listed(store: Store, release: Release) -> list[Release]:
    """List the releases of a tag, with this one among them: GitHub's lists lag behind what it just did."""
    for seconds in (*WAITS, None):
        found = [r for r in store.releases(release.repo) if r.tag == release.tag]
        if any(r.id == release.id for r in found):
            return found
        if seconds is not None:
            time.sleep(seconds)
    raise NotFoundError(f"{release.repo}: {release.tag} has gone from the registry", hint="run the same command again")


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
