"""`mreg fetch`: from a ref to a verified archive, or to its folder."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from registry import cache, notes, output, receipts, refs, transfer, unpack
from registry.errors import ConflictError, IntegrityError, MregError
from registry.files import sha256
from registry.manifest import MANIFEST_NAME
from registry.manifest import read as read_manifest_file
from registry.published import Archive, find_archives, require_file_name, several_archives
from registry.sources import all_sources
from registry.stores import canonical_location, is_offline, open_store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from registry.stores import Store


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """What a ref became on this machine."""

    ref: str
    path: Path  # archive, or the folder it was unpacked to
    sha256: str  # of the archive; "" for a folder
    size: int  # bytes of the archive; 0 for a folder
    tag: str = ""
    url: str = ""  # public address of the archive

    def as_json(self) -> dict[str, Any]:
        """Return the entry of `mreg fetch --json`."""
        return {**vars(self), "path": str(self.path)}


def fetch_all(
    texts: Iterable[str],
    registry: str | None = None,
    *,
    out: Path | None = None,
    do_unpack: bool = False,
    asset: str = "",
    offline: bool = False,
) -> list[Fetched]:
    """Fetch one ref after the other; the registry is opened only where one of them is a name and not `offline`."""
    if offline or is_offline():
        place = canonical_location(registry)
        return [found for text in texts for found in _fetch_offline(text, place, out, do_unpack, asset)]
    store = open_store(registry) if any(isinstance(refs.parse(text), refs.RepoRef) for text in texts) else None
    return [found for text in texts for found in _fetch(text, store, out, do_unpack, asset)]


def fetch(
    text: str,
    store: Store | None = None,
    *,
    out: Path | None = None,
    do_unpack: bool = False,
    asset: str = "",
    accept: Callable[[Archive], None] | None = None,
) -> Fetched:
    """Bring the archive that a ref names to this machine, into `out` or else into the cache.

    Without a tag: the newest release that is published and not yanked. The archive is verified against the release's
    manifest and the registry's digest, resumed where an earlier try ended, taken from a mirror where the registry does
    not give it, and with `do_unpack` unpacked to a folder of its own. `store` is opened from the environment where it
    is needed and not given; under MREG_OFFLINE only the cache is looked at. `accept` is shown what a release promises
    before anything of it is downloaded, and raises where it is not what the caller wants.

    Raises `NotFoundError`, `IntegrityError`, `ConflictError` (the target holds something else), and `MregError` where
    the release has several archives and nobody has said which. A model that was packed a fold an archive is one folder
    with `do_unpack`; without, `fetch_all` gives its archives.
    """
    if is_offline():
        found = _fetch_offline(text, store.location if store else canonical_location(), out, do_unpack, asset)
    else:
        found = _fetch(text, store, out, do_unpack, asset, accept)
    if len(found) > 1:
        raise several_archives(text, [item.path.name for item in found])
    return found[0]


def _fetch(
    text: str,
    store: Store | None,
    out: Path | None,
    do_unpack: bool,
    asset: str,
    accept: Callable[[Archive], None] | None = None,
) -> list[Fetched]:
    ref = refs.parse(text)
    target = None if do_unpack else out
    if isinstance(ref, refs.FileRef):
        return [_here(ref, out, do_unpack=do_unpack)]
    if isinstance(ref, refs.UrlRef):
        found = [_fetch_url(ref, target)]
    else:
        store = store or open_store()
        archives = find_archives(ref, store, asset)
        if accept is not None:
            for archive in archives:
                accept(archive)
        found = [_fetch_asset(ref, store, archive, target) for archive in archives]
    return [_unpacked(found, ref, out)] if do_unpack else found


def _fetch_offline(text: str, location: str, out: Path | None, do_unpack: bool, asset: str) -> list[Fetched]:
    """Take archives from the cache, or one from a path; nothing is asked of anybody."""
    ref = refs.parse(text)
    target = None if do_unpack else out
    if isinstance(ref, refs.FileRef):
        return [_here(ref, out, do_unpack=do_unpack)]
    known = receipts.find(ref, location if isinstance(ref, refs.RepoRef) else "", asset)
    if known[0].yanked:
        output.warn(f"{ref} is yanked and should not be used any more: {known[0].yanked}")
    found = [_from_cache(ref, receipt, target) for receipt in known]
    return [_unpacked(found, ref, out)] if do_unpack else found


def _from_cache(ref: refs.RepoRef | refs.UrlRef, known: receipts.Receipt, target: Path | None) -> Fetched:
    path = known.path
    if target is not None:
        path = target / known.asset
        with cache.locked(path):
            transfer.copy(known.path, path)
    size = path.stat().st_size
    return Fetched(ref=str(ref), path=path, sha256=known.sha256, size=size, tag=known.tag, url=known.url)


def model_for(text: str, store: Store | None = None) -> Path:
    """Return the trainer folder (nnUNetTrainer…) of a ref, fetched and unpacked into the cache if it has to be."""
    return unpack.model_folder(fetch(text, store, do_unpack=True).path)


def _fetch_asset(ref: refs.RepoRef, store: Store, archive: Archive, out: Path | None) -> Fetched:
    release, asset = archive.release, archive.asset
    require_file_name(asset.name)
    key = archive.sha256 or cache.key_of(store.location, release.repo, release.tag, asset.name, asset.id, asset.size)
    archives = len(archive.manifest.archives) if archive.manifest else 0
    found = all_sources(store, release, asset, key=key, sha256=archive.sha256, archives=archives)
    path, digest = _place(found, key, asset.name, out)
    if out is None:
        yanked = notes.block_of(release).yanked
        parts = tuple(model.asset for model in archive.manifest.parts) if archive.manifest else ()
        known = receipts.Receipt(
            asset=asset.name, key=key, sha256=digest, url=asset.url, tag=release.tag, yanked=yanked, parts=parts
        )
        receipts.write(refs.RepoRef(ref.name), store.location, known)
    return Fetched(ref=str(ref), path=path, sha256=digest, size=path.stat().st_size, tag=release.tag, url=asset.url)


def _fetch_url(ref: refs.UrlRef, out: Path | None) -> Fetched:
    from registry.web import open_address

    name, source, close = open_address(ref)
    try:
        path, digest = _place([source], source.identity, name, out)
    finally:
        close()
    if out is None:
        receipts.write(ref, "", receipts.Receipt(asset=name, key=source.identity, sha256=digest, url=ref.url))
    output.warn(f"{name}: nobody has told the SHA-256 of this address; it is {digest}")
    return Fetched(ref=str(ref), path=path, sha256=digest, size=path.stat().st_size, url=ref.url)


def _place(found: Sequence[transfer.Source], key: str, name: str, out: Path | None) -> tuple[Path, str]:
    """Put an archive's bytes into a folder, from the cache where they are there already, or into the cache."""
    cached = cache.archive_path(key, name)
    if out is None:
        with cache.locked(cached):
            try:
                digest = transfer.download_any(found, cached)
            except ConflictError:  # a disk that forgets
                output.warn(f"{cached}: damaged, fetching it again")
                cached.unlink()
                digest = transfer.download_any(found, cached)
        return _checked(cached), digest
    target = out / name
    with cache.locked(target):
        if not target.exists() and cached.exists() and found[0].sha256 in ("", sha256(cached)):
            return target, transfer.copy(cached, target)
        digest = transfer.download_any(found, target)
    return _checked(target), digest


def _checked(path: Path) -> Path:
    """Refuse and remove what was fetched as an archive and is none."""
    if path.suffix.lower() == ".zip" and not unpack.is_archive(path):
        path.unlink()
        raise IntegrityError(f"{path.name}: not a zip archive", hint="the registry or address gives something else")
    return path


def _here(ref: refs.FileRef, out: Path | None, *, do_unpack: bool) -> Fetched:
    """Take an archive that lies here, or the folder that one was unpacked to."""
    if ref.path.is_dir():
        return _folder(ref, out)
    found = _fetch_file(ref, None if do_unpack else out)
    return _unpacked([found], ref, out) if do_unpack else found


def _fetch_file(ref: refs.FileRef, out: Path | None) -> Fetched:
    unpack.require_archive(ref.path)
    _require_promised(ref.path)
    path = ref.path.absolute()
    if out is not None and (out / path.name).absolute() != path:
        with cache.locked(out / path.name):
            digest = transfer.copy(path, out / path.name)
        path = out / path.name
    else:
        digest = sha256(path)
    return Fetched(ref=str(ref), path=path, sha256=digest, size=path.stat().st_size)


def _require_promised(path: Path) -> None:
    """Raise where a manifest that was carried along with an archive names other bytes."""
    beside = path.with_name(MANIFEST_NAME)
    promised = read_manifest_file(beside).sha256_of(path.name) if beside.is_file() else ""
    if promised and sha256(path) != promised:
        raise IntegrityError(
            f"{path}: not the file that {beside.name} beside it names (expected SHA-256 {promised})",
            hint="copy both again from where they came",
        )


def _folder(ref: refs.FileRef, out: Path | None) -> Fetched:
    if out is not None:
        raise MregError(f"{ref.path}: a folder and not an archive: nothing to fetch", hint="copy it with cp -r")
    return Fetched(ref=str(ref), path=ref.path.absolute(), sha256="", size=0)


def _unpacked(found: list[Fetched], ref: refs.Ref, out: Path | None) -> Fetched:
    """Unpack beside other models in `out`, or into the cache, where a damaged folder is replaced.

    The folds of one model go into one folder, whose name does not have their numbers.
    """
    first, paths = found[0], [item.path for item in found]
    if len(found) == 1:
        name, key = first.path.stem, first.sha256
    else:
        name = require_file_name(f"{ref.name if isinstance(ref, refs.RepoRef) else first.path.stem}-{first.tag}")
        key = cache.key_of(*(item.sha256 for item in found))
        first = replace(first, sha256="", size=sum(item.size for item in found), url="")
    folder = out / name if out is not None else cache.unpacked_path(key, name)
    with cache.locked(folder):
        unpack.sweep(folder)
        if out is not None:
            return replace(first, path=unpack.unpack_together(paths, folder))
        try:
            return replace(first, path=unpack.unpack_together(paths, folder))
        except ConflictError:
            output.warn(f"{folder}: damaged, unpacking it again")
            shutil.rmtree(folder)
            return replace(first, path=unpack.unpack_together(paths, folder))
