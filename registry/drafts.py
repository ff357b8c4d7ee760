"""What the release workflow does with a draft: fetch it to be checked, then publish exactly what was checked.

Between the two lie other machines. What holds them together are the SHA-256 digests of the draft's files: the first
step prints them, the second refuses a draft that has other bytes by now.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from registry import attestation, manifest, output
from registry.errors import ConflictError, IntegrityError, MregError, NotFoundError
from registry.files import atomic_write, sha256
from registry.manifest import MANIFEST_NAME
from registry.read_back import read_back, with_digests
from registry.refs import RepoRef, parse
from registry.release_plan import is_newer, local_asset, previous

if TYPE_CHECKING:
    from collections.abc import Iterable

    from registry.stores import Asset, Release, Store

CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class FetchedDraft:
    """A draft on disk, whole and as its manifest says."""

    release: Release
    assets: tuple[Asset, ...]  # without attestations of an earlier try
    archives: tuple[str, ...]  # names
    previous: str  # NAME@TAG of the release before it, "" where it is the first

    @property
    def checksums(self) -> str:
        """Return the digests as `sha256sum` writes them."""
        return _sums(self.assets)

    def job_outputs(self) -> str:
        """Return the outputs of a job of GitHub Actions: checksums, archives (theirs alone), previous."""
        archives = _sums(asset for asset in self.assets if asset.name in self.archives)
        texts = {"checksums": self.checksums, "archives": archives, "previous": self.previous}
        return "".join(f"{key}<<END_OF_{key}\n{text}\nEND_OF_{key}\n" for key, text in texts.items())


def fetch(text: str, store: Store, out: Path) -> FetchedDraft:
    """Download every file of a draft into a folder, and compare them with the registry's digests and the manifest.

    `text` is NAME@TAG. Raises `NotFoundError` where there is no such draft, or where the token does not see it, and
    `IntegrityError` where a byte differs or a file is missing.
    """
    ref = _parse(text)
    releases = store.releases(ref.name)
    release = with_digests(store, _draft(ref, releases, store.location))
    assets = tuple(sorted(_checked_assets(release), key=lambda asset: asset.name))
    broken = [asset.name for asset in release.assets if not asset.uploaded]
    if broken:
        raise IntegrityError(f"{ref}: {broken[0]} was not uploaded whole", hint="run mreg release again: it mends it")
    out.mkdir(parents=True, exist_ok=True)
    for asset in assets:
        _download(store, release, asset, out / asset.name)
    archives = _compare_with_manifest(ref, out, assets)
    return FetchedDraft(
        release=release, assets=assets, archives=archives, previous=previous(ref.name, ref.tag, releases)
    )


def publish(text: str, store: Store, checksums: str, provenance: Path | None = None) -> Release:
    """Attach the attestation to every archive of a draft, publish it and read it back.

    `checksums` are those that `fetch` returned. A release that is public with them already is done. Raises
    `ConflictError` where the draft has other files than those.
    """
    ref = _parse(text)
    wanted = _read_sums(checksums)
    releases = store.releases(ref.name)
    public = next((r for r in releases if r.tag == ref.tag and not r.draft), None)
    release = with_digests(store, public or _draft(ref, releases, store.location))
    there = {asset.name: asset.sha256 for asset in _checked_assets(release)}
    if there != wanted:
        other = sorted(name for name in there.keys() | wanted.keys() if there.get(name) != wanted.get(name))
        raise ConflictError(
            f"{ref}: {other[0]} is not what was checked", hint="the draft has changed since: run mreg release again"
        )
    if public:
        output.say(f"{ref} is public with these files already")
        return public
    if provenance:
        _attach(store, release, provenance)
    latest = all(is_newer(ref.tag, r) for r in releases if not r.draft)
    made = store.publish(release, latest=latest)
    return read_back(store, made, ())


def summary(release: Release) -> str:
    """Return what the workflow's page says of a release, in Markdown."""
    rows = "\n".join(f"| [{a.name}]({a.url}) | {a.size} | `{a.sha256}` |" for a in release.assets)
    attested = any(asset.name.endswith(attestation.SUFFIX) for asset in release.assets)
    built = "attested by this workflow" if attested else "not attested"
    title = f"[{release.repo} {release.tag}]({release.url})"
    return f"### Published: {title}\n\nChecked, {built}.\n\n| file | bytes | SHA-256 |\n|---|---:|---|\n{rows}\n"


def _parse(text: str) -> RepoRef:
    ref = parse(text)
    if not isinstance(ref, RepoRef) or not ref.tag:
        raise MregError(f"{text!r} names no draft", hint="write NAME@TAG, for example model_seg_sc_t2@r20260131")
    return ref


def _draft(ref: RepoRef, releases: Iterable[Release], location: str) -> Release:
    found = [release for release in releases if release.tag == ref.tag]
    if any(not release.draft for release in found):
        raise ConflictError(f"{ref}: is public already", hint="nothing is left to be done")
    if not found:
        raise NotFoundError(
            f"{ref}: no draft in {location}",
            hint="mreg release makes one; GitHub shows drafts only to tokens that may push (contents: write)",
        )
    return min(found, key=lambda release: int(release.id))  # of several, the one that everybody takes


def _checked_assets(release: Release) -> list[Asset]:
    return [asset for asset in release.assets if not asset.name.endswith(attestation.SUFFIX)]


def _download(store: Store, release: Release, asset: Asset, path: Path) -> None:
    digest = hashlib.sha256()
    with (
        output.byte_progress(f"download {asset.name}", asset.size) as progress,
        store.open_asset(release, asset) as stream,
        atomic_write(path) as file,
    ):
        while chunk := stream.read(CHUNK_BYTES):
            file.write(chunk)
            digest.update(chunk)
            progress(len(chunk))
        if digest.hexdigest() != asset.sha256:
            raise IntegrityError(f"{asset.name}: arrived with other bytes than the registry has", hint="try again")


def _compare_with_manifest(ref: RepoRef, folder: Path, assets: Iterable[Asset]) -> tuple[str, ...]:
    """Return the names of the archives that the manifest lists; every archive must be one of them."""
    described = manifest.read(folder / MANIFEST_NAME)
    if described.tag != ref.tag:
        raise IntegrityError(f"{ref}: its manifest is that of {described.name}@{described.tag}")
    there = {asset.name: asset.sha256 for asset in assets}
    for entry in described.assets:
        if there.get(entry.name) != entry.sha256:
            state = "other bytes than" if entry.name in there else "missing, although"
            raise IntegrityError(f"{ref}: {entry.name} is {state} the manifest says", hint="run mreg release again")
    strange = [n for n in there if n.lower().endswith(".zip") and n not in {e.name for e in described.assets}]
    if strange:
        raise IntegrityError(f"{ref}: {strange[0]} is an archive that the manifest does not know")
    return tuple(entry.name for entry in described.assets)


def _attach(store: Store, release: Release, bundle: Path) -> None:
    """Upload the bundle beside each archive, in place of one from an earlier try."""
    try:
        attested = attestation.subjects(bundle.read_text(encoding="utf-8"))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise IntegrityError(f"{bundle}: is no attestation: {error}") from error
    with tempfile.TemporaryDirectory(prefix="mreg-draft-") as folder:
        for archive in _checked_assets(release):
            if not archive.name.lower().endswith(".zip"):
                continue
            if archive.sha256 not in attested:
                raise IntegrityError(f"{bundle}: does not attest {archive.name}")
            path = Path(folder) / f"{archive.name}{attestation.SUFFIX}"
            shutil.copyfile(bundle, path)
            for old in release.assets:
                if old.name == path.name:
                    store.delete_asset(release, old)
            asset = store.upload(release, path)
            if not local_asset(path).equals(replace(asset, sha256=asset.sha256 or sha256(path))):
                raise IntegrityError(f"{path.name} arrived with other bytes", hint="start the workflow again")


def _sums(assets: Iterable[Asset]) -> str:
    return "\n".join(f"{asset.sha256}  {asset.name}" for asset in assets)


def _read_sums(text: str) -> dict[str, str]:
    pairs = [line.split("  ", 1) for line in text.splitlines() if line.strip()]
    if not pairs or any(len(pair) != 2 or len(pair[0]) != 64 for pair in pairs):  # noqa: PLR2004
        raise MregError("the checksums are not lines of sha256sum", hint="give those that mreg draft fetch printed")
    return {name: digest for digest, name in pairs}
