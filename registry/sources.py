"""Where an archive's bytes can come from: the registry, then the mirrors that the release's notes name, in order.

A mirror's bytes are believed only by the SHA-256 of the manifest, so a release without one has no mirrors.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import unquote

from registry import notes, output, refs
from registry.errors import MregError
from registry.transfer import Source

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from registry.stores import Asset, Release, Store


def name_in(url: str) -> str:
    """Return the file name that a mirror's address says, "" where it says none.

    A fragment goes to no server; it names the file where the address itself does not.

    >>> name_in("https://zenodo.org/records/1/files/a.zip?download=1")
    'a.zip'
    >>> name_in("https://osf.io/download/abc12/#a.zip")
    'a.zip'
    """
    try:
        parts = refs.split(url)
    except MregError:  # what people write into notes
        return ""
    name = unquote(parts.fragment or parts.path.rpartition("/")[2])
    return name if "." in name else ""


def mirrors_of(urls: Iterable[str], asset: str, archives: int = 1) -> list[str]:
    """Return the addresses that hold one asset; one without a file name counts where there is one archive only."""
    return [url for url in urls if (name_in(url) or (asset if archives == 1 else "")) == asset]


def all_sources(store: Store, release: Release, asset: Asset, *, key: str, sha256: str, archives: int) -> list[Source]:
    """Return the registry's own source and one for each mirror; `archives`: how many the manifest has, 0 without one.

    All have the same identity: where one breaks off, the next continues.
    """
    own = Source(
        label=asset.name,
        identity=key,
        size=asset.size,
        sha256=sha256,
        open=lambda offset: store.open_asset(release, asset, offset),
        place=store.location,
    )
    if not archives:
        return [own]
    urls = mirrors_of(notes.block_of(release).mirrors, asset.name, archives)
    return [own, *_mirrors(urls, own, local=store.location.startswith("dir:"))]


def _mirrors(urls: Iterable[str], own: Source, *, local: bool) -> Iterator[Source]:
    from registry.web import mirror

    for url in urls:
        try:
            ref = refs.parse(url.partition("#")[0])
        except MregError as error:
            output.warn(f"mirror passed over: {error.message}")
            continue
        if isinstance(ref, refs.UrlRef):
            yield mirror(ref, own)
        elif isinstance(ref, refs.FileRef) and local:  # a public registry has no business with this machine's files
            yield _file(ref, own)


def _file(ref: refs.FileRef, own: Source) -> Source:
    def open_at(offset: int) -> BinaryIO:
        file = ref.path.open("rb")
        file.seek(offset)
        return file

    return replace(own, open=open_at, place=str(ref.path))
