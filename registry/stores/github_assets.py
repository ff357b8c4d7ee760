"""The bytes of assets: uploads and downloads in constant memory.

PyGithub reads a download into memory twice and does not compare digests, so these two go through requests.
"""

from __future__ import annotations

import http.client
import io
import mimetypes
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

import requests

from registry import __version__
from registry.errors import IntegrityError
from registry.hashing import PIECE_BYTES, HashThread
from registry.stores.github_api import NETWORK_FAULTS, GitHubApi, Refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

T = TypeVar("T")

TIMEOUT = (15, 300)  # seconds to connect, and to wait for a byte: GitHub works on a large upload before it answers
CHUNK_BYTES = 1 << 20


def new_session() -> requests.Session:
    """Open a session that sends the credentials that it is given, to the address that they are for, and no others.

    requests by itself adds those of ~/.netrc, to a redirect's target too: storages with signed addresses refuse that.
    """
    session = _Session()
    session.auth = _no_credentials
    session.headers["User-Agent"] = f"mreg/{__version__}"
    return session


class _Session(requests.Session):
    def rebuild_auth(self, prepared_request: requests.PreparedRequest, response: requests.Response) -> None:  # noqa: ARG002
        """Send nothing to where a redirect leads."""
        prepared_request.headers.pop("Authorization", None)


def _no_credentials(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request


def refuse(response: requests.Response) -> Refusal:
    """Read the error of an answer."""
    with response:
        try:
            document = response.json()
        except ValueError:
            document = {"message": response.reason}
    return Refusal(response.status_code, document, dict(response.headers))


class CountedFile:
    """A file as the body of an upload: knows its length and counts what is read; `see` gets every piece."""

    def __init__(
        self,
        file: BinaryIO,
        size: int,
        progress: Callable[[int], None],
        see: Callable[[bytes], None] = lambda _: None,
    ) -> None:
        self._file, self._size, self._progress, self._see = file, size, progress, see
        self.sent = 0

    def __len__(self) -> int:
        return self._size

    def read(self, count: int = -1) -> bytes:
        """Return the next bytes."""
        data = self._file.read(max(count, PIECE_BYTES))
        self.sent += len(data)
        if data:
            self._see(data)
            self._progress(len(data))
        return data

    def __iter__(self) -> Iterator[bytes]:
        """Yield the rest; requests takes only what can be iterated for a stream."""
        while data := self.read():
            yield data


@dataclass(frozen=True)
class Sent:
    """GitHub's document of a new asset, and what was read from the file or is known of it."""

    document: dict[str, Any]
    size: int
    sha256: str

    @property
    def arrived(self) -> bool:
        """Whether GitHub has the same bytes; old servers know no digest."""
        digest = self.document.get("digest")
        return self.document.get("size") == self.size and digest in (None, f"sha256:{self.sha256}")


def send(api: GitHubApi, address: str, path: Path, progress: Callable[[int], None], digest: str = "") -> Sent:
    """Upload a file once; raise `Refusal` or a network fault, and take the progress back then.

    Without `digest`, the SHA-256 that the file is known to have, it is computed on the way.
    """
    headers = {
        "Authorization": f"Bearer {api.token}",
        "Accept": "application/vnd.github+json",
        "Content-Type": mimetypes.guess_type(path.name)[0] or "application/octet-stream",
    }
    with path.open("rb", buffering=0) as file, new_session() as session:
        with nullcontext() if digest else HashThread() as hashing:
            see = hashing.put if hashing else (lambda _: None)
            body = CountedFile(file, path.stat().st_size, progress, see)
            try:
                response = session.post(
                    address, params={"name": path.name}, data=body, headers=headers, timeout=TIMEOUT,
                    allow_redirects=False,
                )  # fmt: skip
                document = _created(response)
            except BaseException:
                progress(-body.sent)
                raise
        return Sent(document, body.sent, hashing.digest.hexdigest() if hashing else digest)


def _created(response: requests.Response) -> dict[str, Any]:
    if response.status_code != requests.codes.created:
        raise refuse(response)
    document: dict[str, Any] = response.json()
    return document


class AssetSource:
    """Where the bytes of one asset come from: its public address, else the API (drafts, private repositories)."""

    def __init__(self, api: GitHubApi, public: str, private: str, *, where: str, name: str) -> None:
        self.api, self._public, self._private = api, public, private
        self.where, self.name = where, name
        self.session = new_session()

    def open(self, position: int, etag: str) -> requests.Response:
        """Try once to get an answer whose body starts at `position`; with `etag`, only of the file that had it."""
        # The public address costs nothing of the API's quota and needs no token.
        response = self._get(self._public, position, etag) if self._public else None
        if response is not None and response.status_code == requests.codes.not_found and self.api.token:
            response.close()
            response = None
        if response is None:
            response = self._get(self._private, position, etag, self.api.token)
        if response.status_code not in (requests.codes.ok, requests.codes.partial_content):
            raise refuse(response)
        if etag and response.headers.get("ETag", etag) != etag:
            raise IntegrityError(f"{self.where}: {self.name} changed while it was read", hint="start again")
        if response.status_code == requests.codes.ok:  # the whole file: a server or proxy that knows no ranges
            _skip(response, position)
        elif not response.headers.get("Content-Range", "").startswith(f"bytes {position}-"):
            raise IntegrityError(f"{self.where}: asked for {self.name} from byte {position} on, got another part")
        return response

    def _get(self, address: str, position: int, etag: str, token: str = "") -> requests.Response:
        headers = {"Accept": "application/octet-stream", "Accept-Encoding": "identity"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        if position:
            headers["Range"] = f"bytes={position}-"
        if position and etag:
            headers["If-Range"] = etag
        return self.session.get(address, headers=headers, stream=True, timeout=TIMEOUT)


class AssetStream(io.RawIOBase):
    """The bytes of an asset from `position` to `size`; goes on by itself where the connection breaks."""

    def __init__(self, source: AssetSource, position: int, size: int) -> None:
        super().__init__()
        self._source, self._position, self._size = source, position, size
        self._etag = ""
        self._response: requests.Response | None = None
        self._patiently(self._connected)  # so that a missing asset is an error now and not at the first byte

    def readable(self) -> bool:
        """Whether bytes can be read: always."""
        return True

    def readinto(self, buffer: Any, /) -> int:
        """Fill the buffer, or a part of it; 0 at the end."""
        if self._position >= self._size:
            return 0
        with memoryview(buffer).cast("B")[: self._size - self._position] as view:
            count = self._patiently(lambda: self._read(view))
        self._position += count
        return count

    def close(self) -> None:
        """Give the connection back."""
        if self._response is not None:
            self._response.close()
        self._source.session.close()
        super().close()

    def _patiently(self, action: Callable[[], T]) -> T:
        return self._source.api.patiently(action, where=self._source.where, what=f"download {self._source.name}")

    def _connected(self) -> requests.Response:
        if self._response is None:
            self._response = self._source.open(self._position, self._etag)
            self._etag = self._response.headers.get("ETag", "")
        return self._response

    def _read(self, view: memoryview) -> int:
        try:
            # Past urllib3, which copies twice what http.client reads into the buffer.
            count: int = self._connected().raw._fp.readinto(view)  # type: ignore[union-attr]  # noqa: SLF001
            if not count:
                raise ConnectionError(f"ended after {self._position} of {self._size} bytes")
        except (OSError, http.client.HTTPException) as error:
            if self._response is not None:
                self._response.close()
            self._response = None
            if isinstance(error, NETWORK_FAULTS):
                raise
            raise ConnectionError(str(error)) from error
        return count


def _skip(response: requests.Response, count: int) -> None:
    while count > 0 and (data := response.raw.read(min(count, CHUNK_BYTES))):
        count -= len(data)
