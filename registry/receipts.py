"""What was fetched from where: receipts in the cache, by which a name is found again without a network.

receipts/KEY/TAG--ASSET.json     KEY: a hash of the registry's location and the model's name
receipts/KEY/address.json        KEY: a hash of an address
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote

from registry import cache
from registry.errors import MregError, NotFoundError
from registry.files import sha256, write_json
from registry.refs import RepoRef
from registry.stores import Release
from registry.stores.contract import newest_first

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from registry.refs import UrlRef


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """One archive that lies, or lay, in the cache."""

    asset: str  # its file name
    key: str  # of the cache's folder that holds it
    sha256: str
    url: str = ""  # public address
    tag: str = ""
    yanked: str = ""  # the reason, as it was when the archive was fetched
    parts: tuple[str, ...] = ()  # file names of all archives, where each has a fold of the model

    @property
    def path(self) -> Path:
        """Return where the archive would lie."""
        return cache.archive_path(self.key, self.asset)


def write(ref: RepoRef | UrlRef, location: str, receipt: Receipt) -> None:
    """Remember what a ref became; `location` is the registry's, "" for an address."""
    name = f"{quote(receipt.tag, safe='')}--{receipt.asset}" if isinstance(ref, RepoRef) else "address"
    path = _folder(ref, location) / f"{name}.json"
    document = asdict(receipt)
    if path.is_file() and _read(path) == receipt:
        return
    try:
        write_json(path, document)
    except OSError as error:
        if error.errno not in cache.READ_ONLY:  # the archive is there all the same
            raise


def find(ref: RepoRef | UrlRef, location: str, asset: str = "") -> list[Receipt]:
    """Return the receipt of an archive that is in the cache, whole: the tag's, else the newest good one.

    There are several where each has a fold of the model. Raises `NotFoundError` where the cache lacks one, `MregError`
    where there are several to choose from.
    """
    known = [receipt for receipt in _all(ref, location) if receipt.path.is_file()]
    if isinstance(ref, RepoRef):
        tag = ref.tag or _newest_tag(known)
        known = [receipt for receipt in known if receipt.tag == tag and asset in ("", receipt.asset)]
    wanted = known[0].parts if known and not asset else ()
    if len(known) > 1 and not wanted:
        names = ", ".join(sorted(receipt.asset for receipt in known))
        raise MregError(f"{ref}: several archives in the cache: {names}", hint=f"choose: --asset {known[0].asset}")
    lacks = not known or not set(wanted) <= {receipt.asset for receipt in known}
    if lacks or any(sha256(receipt.path) != receipt.sha256 for receipt in known):
        what = f"{ref} ({asset})" if asset else str(ref)
        raise NotFoundError(
            f"{what}: not in the cache {cache.root()}, and --offline or MREG_OFFLINE forbids the network",
            hint="fetch it once with a network, give the path of an archive, or carry the archive here on a disk",
        )
    return sorted(known, key=lambda receipt: receipt.asset)


def _all(ref: RepoRef | UrlRef, location: str) -> Iterator[Receipt]:
    for path in sorted(_folder(ref, location).glob("*.json")):
        receipt = _read(path)
        if receipt:
            yield receipt


def _read(path: Path) -> Receipt | None:
    """Read a receipt; one that somebody has spoilt is none."""
    try:
        document = json.loads(path.read_bytes())
        return Receipt(**{**document, "parts": tuple(document.get("parts", ()))})
    except (ValueError, TypeError, AttributeError, RecursionError):
        return None


def _newest_tag(known: list[Receipt]) -> str:
    releases = [
        Release(id="0", repo="", tag=receipt.tag, title="", notes="", draft=False)
        for receipt in known
        if not receipt.yanked
    ]
    return newest_first(releases)[0].tag if releases else ""


def _folder(ref: RepoRef | UrlRef, location: str) -> Path:
    what = (location, ref.name) if isinstance(ref, RepoRef) else (ref.url,)
    # GitHub does not distinguish large and small letters, folders do.
    words = [word.lower() if location.startswith("github:") else word for word in what]
    return cache.root() / "receipts" / cache.key_of(*words)[:32]
