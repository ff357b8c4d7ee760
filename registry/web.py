"""Archives at an address: https or this machine, no credentials, ranges that hold to one version of the file."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any, BinaryIO, cast
from urllib.parse import unquote, urljoin, urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from registry import cache, refs
from registry.errors import AccessError, IntegrityError, MregError, NotFoundError, RegistryError
from registry.stores.github_assets import new_session
from registry.transfer import Interrupted, Source

if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE = Retry(total=3, backoff_factor=0.5, status_forcelist=(500, 502, 503, 504), raise_on_status=False)
TIMEOUT = (15, 60)  # seconds to connect, and to wait for a byte
MAX_REDIRECTS = 10
_UNSAFE = re.compile(r"[^A-Za-z0-9_+@.-]+")
_STATUS: dict[int, tuple[type[MregError], str]] = {
    401: (AccessError, "mreg sends no token to addresses; for a private model use NAME with --registry"),
    403: (AccessError, "the server does not give it to everybody"),
    404: (NotFoundError, "is the address right?"),
    410: (NotFoundError, "it was removed"),
}


class Body(io.RawIOBase):
    """The body of an answer, which raises `Interrupted` where it ends too early."""

    def __init__(self, response: requests.Response, session: requests.Session | None = None) -> None:
        super().__init__()
        self._response, self._session = response, session  # a session of its own ends with the body

    def readable(self) -> bool:
        """Whether bytes can be read: always."""
        return True

    def readinto(self, buffer: Any, /) -> int:
        """Fill the buffer, or a part of it; 0 at the end."""
        data = _read(self._response, len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        """Give the connection back."""
        self._response.close()
        if self._session:
            self._session.close()
        super().close()


def mirror(ref: refs.UrlRef, like: Source) -> Source:
    """Return a source of the same bytes at an address; nothing is asked before somebody wants them.

    What the address refuses at first is an error at once, so that the next mirror has its turn; what breaks later is
    `Interrupted`.
    """
    versions: list[str] = []

    def open_at(offset: int) -> BinaryIO:
        session = _patient_session()
        wanted = {"Range": f"bytes={offset}-"} if offset else {}
        if offset and versions and versions[0] and not versions[0].startswith("W/"):
            wanted["If-Range"] = versions[0]
        try:
            response = _at(_get(session, ref.url, wanted), offset, "", ref.url)
        except (MregError, Interrupted) as fault:
            session.close()
            if versions and isinstance(fault, RegistryError):
                raise Interrupted(fault.message) from fault
            raise
        versions.append(response.headers.get("ETag", ""))
        return cast("BinaryIO", Body(response, session))

    return replace(like, open=open_at, place=ref.url)


def open_address(ref: refs.UrlRef) -> tuple[str, Source, Callable[[], None]]:
    """Ask for an address; return the file's name, its source, and a function that ends the connection.

    The first answer tells size and version; nothing of the body is read before somebody wants it.
    """
    session = _patient_session()
    first: list[requests.Response] = [_get(session, ref.url, {})]
    headers = first[0].headers
    length, encoded = headers.get("Content-Length", ""), headers.get("Content-Encoding", "identity") != "identity"
    size = int(length) if length.isdecimal() and not encoded else None
    etag = headers.get("ETag", "")
    version = etag or headers.get("Last-Modified", "")

    def open_at(offset: int) -> BinaryIO:
        if not offset and first:
            return cast("BinaryIO", Body(first.pop()))
        condition = version if not etag.startswith("W/") else headers.get("Last-Modified", "")
        wanted = {"Range": f"bytes={offset}-", **({"If-Range": condition} if condition else {})} if offset else {}
        try:
            response = _get(session, ref.url, wanted)
        except RegistryError as fault:
            raise Interrupted(fault.message) from fault
        return cast("BinaryIO", Body(_at(response, offset, version, ref.url)))

    def close() -> None:
        for response in first:
            response.close()
        session.close()

    name = _file_name(ref, headers.get("Content-Disposition", ""))
    # Without a version an answer of the same size might be another file: such a part is never continued.
    identity = cache.key_of(ref.url, version, size) if version else cache.key_of(ref.url, id(session))
    return name, Source(label=name, identity=identity, size=size, sha256="", open=open_at), close


class Ranges:
    """A file at an address, read by ranges that all belong to one version of it."""

    def __init__(self, url: str) -> None:
        self.url, self.size = url, 0
        self._session, self._version = _patient_session(), ""
        # One byte: its answer tells how large the file is, and whether the server knows ranges at all.
        with _get(self._session, url, {"Range": "bytes=0-0"}) as response:
            self.name = _file_name(refs.UrlRef(url), response.headers.get("Content-Disposition", ""))
            stated = re.fullmatch(r"bytes \d+-\d+/(\d+)", response.headers.get("Content-Range", ""))
            if response.status_code == requests.codes.partial_content and stated:
                self.size = int(stated[1])
                self._version = response.headers.get("ETag") or response.headers.get("Last-Modified", "")

    def read(self, first: int, last: int) -> bytes:
        """Return the bytes from the first to the last index, both included."""
        condition = {"If-Range": self._version} if self._version and not self._version.startswith("W/") else {}
        wanted = {"Range": f"bytes={first}-{last}", **condition}
        with _get(self._session, self.url, wanted) as response:
            if response.status_code != requests.codes.partial_content:
                raise IntegrityError(
                    f"{self.url}: the file changed while it was read", hint="run the same command again"
                )
            _at(response, first, self._version, self.url)
            try:
                return _read(response, last - first + 1)
            except Interrupted as fault:
                raise RegistryError(f"{self.url}: {fault}", hint="check the network, then try again") from fault

    def close(self) -> None:
        """End the connection."""
        self._session.close()


def _get(session: requests.Session, url: str, headers: dict[str, str]) -> requests.Response:
    """Follow redirects by hand: every station must be safe, and nobody may send us to this machine."""
    local = urlsplit(url).scheme == "http"
    address = url
    for _ in range(MAX_REDIRECTS):
        refs.require_safe(address)
        if not local and urlsplit(address).scheme == "http":
            raise MregError(f"{url}: redirected to {address!r}, which is not encrypted", hint="use another address")
        try:
            response = session.get(
                address,
                headers={"Accept-Encoding": "identity", **headers},
                stream=True,
                timeout=TIMEOUT,
                allow_redirects=False,
            )
        except (requests.RequestException, OSError, ValueError) as fault:  # the last for a redirect to no address
            raise RegistryError(f"{url}: {fault}", hint="check the address and the network, then try again") from fault
        if not response.is_redirect:
            return _require_success(response, url)
        response.close()
        address = urljoin(address, response.headers["Location"])
    raise RegistryError(f"{url}: more than {MAX_REDIRECTS} redirects")


def _require_success(response: requests.Response, url: str) -> requests.Response:
    status = response.status_code
    if status in (requests.codes.ok, requests.codes.partial_content):
        return response
    response.close()
    kind, hint = _STATUS.get(status, (RegistryError, "try again later"))
    raise kind(f"{url}: the server answers {status} {response.reason}", hint=hint)


def _at(response: requests.Response, offset: int, version: str, url: str) -> requests.Response:
    """Return an answer whose body starts at `offset`, of the same version of the file."""
    now = response.headers.get("ETag") or response.headers.get("Last-Modified", "")
    if version and now and now != version:
        response.close()
        raise IntegrityError(f"{url}: the file changed while it was read", hint="run the same command again")
    if response.status_code == requests.codes.partial_content:
        start = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
        if not start or int(start[1]) != offset:
            response.close()
            raise RegistryError(f"{url}: the server sends another range than was asked for")
        return response
    while offset > 0:  # a server that knows no ranges
        data = _read(response, min(offset, 1 << 20))
        if not data:
            raise Interrupted("ended while skipping")
        offset -= len(data)
    return response


def _read(response: requests.Response, count: int) -> bytes:
    """Read so many bytes of a body, fewer at its end; raise `Interrupted` where it breaks off."""
    try:
        data: bytes = response.raw.read(count)
    except (urllib3.exceptions.HTTPError, OSError) as fault:
        raise Interrupted(str(fault)) from fault
    return data


def _file_name(ref: refs.UrlRef, disposition: str) -> str:
    """Return a safe name that ends in .zip, from what the server says or from the address."""
    stated = re.search(r"filename\*\s*=\s*[^']*'[^']*'([^;]+)", disposition)
    plain = re.search(r'filename\s*=\s*"?([^";]+)"?', disposition)
    name = unquote(stated[1]) if stated else plain[1] if plain else ref.file_name
    name = _UNSAFE.sub("_", name.replace("\\", "/").rpartition("/")[2].strip()).lstrip(".") or "model"
    return name if name.lower().endswith(".zip") else f"{name}.zip"


def public_size(url: str) -> int | None:
    """Return the size in bytes that a stranger is told, None where strangers get nothing; raise `RegistryError`."""
    with _patient_session() as session:
        try:
            response = session.head(url, headers={"Accept-Encoding": "identity"}, timeout=TIMEOUT, allow_redirects=True)
        except (requests.RequestException, OSError) as fault:
            raise RegistryError(f"{url}: {fault}", hint="check the network, then try again") from fault
        if response.status_code in _STATUS:
            return None
        if not response.ok:
            raise RegistryError(f"{url}: the server answers {response.status_code}", hint="try again later")
        length = response.headers.get("Content-Length", "")
        return int(length) if length.isdecimal() else -1


def _patient_session() -> requests.Session:
    session = new_session()
    for scheme in ("https://", "http://"):
        session.mount(scheme, HTTPAdapter(max_retries=PATIENCE))
    return session
