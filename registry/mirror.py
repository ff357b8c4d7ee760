"""`mreg mirror`: a release's files at a second place, and the addresses in the release's notes."""

from __future__ import annotations

import tempfile
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from registry import notes, output, refs
from registry.errors import IntegrityError, MregError, NotFoundError, expecting
from registry.files import sha256
from registry.manifest import MANIFEST_NAME
from registry.material import ReleasedMaterial
from registry.model_toml import FILE_NAME
from registry.places import Deposit, open_place
from registry.published import list_releases, read_manifest, resolve
from registry.release_plan import LocalAsset
from registry.stores import open_store

if TYPE_CHECKING:
    from registry.manifest import Manifest
    from registry.stores import Release, Store


@dataclass(frozen=True, kw_only=True)
class Mirrored:
    """Where a release is now, too."""

    ref: str
    place: str
    urls: dict[str, str]  # file → address
    recorded: tuple[str, ...]  # addresses that the release's notes name
    changed: bool  # whether the notes were written

    def as_json(self) -> dict[str, Any]:
        """Return the document of `mreg mirror --json`."""
        return {**vars(self), "recorded": list(self.recorded)}


def mirror(
    text: str, to: str, registry: str | None = None, *, url: str = "", creators: tuple[str, ...] = ()
) -> Mirrored:
    """Copy a release's files to a place, and write the addresses of its archives into the release's notes.

    Every file is verified before it is sent and compared after it has arrived. Run again it sends what is missing and
    writes what is new. `url` is the public address of a folder that a web server shows; a folder without one is written
    into the notes of folder registries only, since its path means nothing to others. `creators` are named on Zenodo,
    by default the authors of model.toml. Raises `MregError` for a release without a manifest, and what the place
    raises.
    """
    ref = refs.parse(text)
    if not isinstance(ref, refs.RepoRef):
        raise MregError(f"{text!r}: only a release of the registry has mirrors", hint="mreg mirror NAME@TAG --to PLACE")
    place = open_place(to)
    store = open_store(registry)
    if to.startswith("dir:") and place.label == store.location:
        raise MregError(f"{place.label}: a registry is no mirror of itself", hint="choose another folder")
    release = resolve(ref, store)
    manifest = read_manifest(store, release)
    if manifest is None:
        raise MregError(
            f"{ref.name}@{release.tag}: no {MANIFEST_NAME}: nobody could tell whether a mirror gives the right bytes",
            hint="only releases that were made with mreg can be mirrored",
        )
    with tempfile.TemporaryDirectory(prefix="mreg-mirror-") as folder:
        files = _gathered(store, release, manifest, Path(folder))
        deposit = _deposit(store, release, manifest, files, creators)
        with expecting(place.label, "is that the address of such a service?"):
            urls = place.copy(deposit)
            known = [urls[name] for name in manifest.archives]
    if not place.public:
        known = _addresses(known, url, store, release, manifest)
    recorded, changed = _record(store, release, known)
    return Mirrored(
        ref=f"{ref.name}@{release.tag}", place=place.label, urls=urls, recorded=tuple(recorded), changed=changed
    )


def _gathered(store: Store, release: Release, manifest: Manifest, folder: Path) -> tuple[LocalAsset, ...]:
    """Bring every file of a release here, verified: archives into the cache, small ones into `folder`."""
    material = ReleasedMaterial(store, release, folder)
    files = []
    for asset in release.assets:
        if not asset.uploaded:
            continue
        promised = manifest.sha256_of(asset.name)
        if promised:
            path, digest = material.archive(asset.name)
        else:
            path = material.file(asset.name) or folder / asset.name
            digest = sha256(path)
        if promised and digest != promised:
            raise IntegrityError(
                f"{release.repo}@{release.tag}: {asset.name} is not the file that its manifest names",
                hint=f"mreg verify {release.repo}@{release.tag}",
            )
        files.append(LocalAsset(path=path, size=path.stat().st_size, sha256=digest))
    missing = {asset.name for asset in manifest.assets} - {file.name for file in files}
    if missing:
        raise NotFoundError(f"{release.repo}@{release.tag}: no asset {', '.join(sorted(missing))}")
    return tuple(files)


def _deposit(
    store: Store, release: Release, manifest: Manifest, files: tuple[LocalAsset, ...], creators: tuple[str, ...]
) -> Deposit:
    return Deposit(
        name=release.repo,
        tag=release.tag,
        description=manifest.description,
        licence=manifest.licence,
        creators=creators or _authors(store, release.repo),
        readme=_file(store, release.repo, "README.md"),
        notes=release.notes,
        page=release.url if release.url.startswith("https://") else "",
        published_on=release.published_at[:10],
        files=files,
    )


def _authors(store: Store, name: str) -> tuple[str, ...]:
    try:
        document = tomllib.loads(_file(store, name, FILE_NAME).decode())
        return tuple(str(author) for author in document["model"]["authors"])
    except (ValueError, KeyError, TypeError):
        return ()


def _file(store: Store, name: str, path: str) -> bytes:
    try:
        return store.read_file(name, path)
    except NotFoundError:
        return b""


def _addresses(urls: list[str], base: str, store: Store, release: Release, manifest: Manifest) -> list[str]:
    """Return what may be written down of a folder: its public address, or its path where the registry is one, too."""
    if base:
        refs.require_safe(base)
        place = f"{base.rstrip('/')}/{release.repo}/releases/{release.tag}/assets"
        return [f"{place}/{name}" for name in manifest.archives]
    if store.location.startswith("dir:"):
        return urls
    output.say(f"not written into the notes of {store.location}: a path of this machine says nothing to others (--url)")
    return []


def _record(store: Store, release: Release, urls: list[str]) -> tuple[list[str], bool]:
    """Add addresses to the release's notes as they are now; return those that it names, and whether it was written."""
    now = next(r for r in list_releases(release.repo, store) if r.id == release.id)
    block = notes.parse_block(now.notes)
    mirrors = (*block.mirrors, *(url for url in urls if url not in block.mirrors))
    if mirrors == block.mirrors:
        return [url for url in urls if url in mirrors], False
    written = store.set_notes(now, notes.write_block(now.notes, replace(block, mirrors=mirrors)))
    if notes.parse_block(written.notes).mirrors != mirrors:
        raise IntegrityError(f"{release.repo}@{release.tag}: the registry has not kept the notes", hint="run it again")
    return urls, True
