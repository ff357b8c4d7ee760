"""The JSON APIs of archives: one call that waits where waiting helps, and sends its token to one service only."""

from __future__ import annotations

import hashlib
import os
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

import requests

from registry import output
from registry.errors import AccessError, ConflictError, IntegrityError, NotFoundError, RegistryError
from registry.refs import require_safe
from registry.stores.github_api import NETWORK_FAULTS
from registry.stores.github_assets import CountedFile, new_session

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from registry.release_plan import LocalAsset

TIMEOUT = (15, 300)  # seconds to connect, and to wait for a byte
WAITS = (1.0, 2.0, 4.0, 8.0, 16.0)  # seconds before each further try, where the service does not say
LONGEST_WAIT = 120.0
_TRANSIENT = (408, 429, 500, 502, 503, 504)
_KINDS = {401: AccessError, 403: AccessError, 404: NotFoundError, 410: NotFoundError, 409: ConflictError}
Json = dict[str, Any]


class WebApi:
    """One service, with the user's token for it."""

    def __init__(self, label: str, base: str, variable: str, *, family: str = "") -> None:
        """`variable` names the token's environment variable; `family` the domain that all its hosts share."""
        require_safe(base)
        self.label, self.base, self._variable, self._family = label, base.rstrip("/"), variable, family
        self._token = os.environ.get(variable, "").strip()
        if not self._token:
            raise AccessError(
                f"{label}: no token", hint=f"make one in your account's settings, then: export {variable}=..."
            )

    def call(
        self,
        verb: str,
        address: str,
        *,
        what: str,
        query: dict[str, str] | None = None,
        body: Json | None = None,
        file: Path | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Any:
        """Return the document of an answer, {} for an empty one; `file` is streamed as the body.

        Faults of the network, 5xx and rate limits are waited for and tried again: every call here may be repeated.
        Raises `ConflictError` for 409, `AccessError`, `NotFoundError`, `RegistryError`.
        """
        url = urljoin(f"{self.base}/", address)
        self._require_ours(url)
        for seconds in (*WAITS, None):
            try:
                response = self._send(verb, url, query, body, file, progress or (lambda _: None))
            except NETWORK_FAULTS as fault:
                if seconds is None:
                    raise RegistryError(
                        f"{self.label}: cannot {what}: {self._clean(str(fault))}",
                        hint="check the network, then run the same command again: it goes on",
                    ) from fault
                self._wait(seconds, what, "no connection")
                continue
            if response.ok and not response.is_redirect:
                return self._document(response, what)
            wait = self._later(response, seconds)
            if wait is None:
                raise self._explain(response, what)
            self._wait(wait, what, f"status {response.status_code}")
        raise AssertionError("unreachable: the last try returns or raises")

    def _send(
        self, verb: str, url: str, query: Any, body: Json | None, file: Path | None, progress: Callable[[int], None]
    ) -> requests.Response:
        headers = {"Authorization": f"Bearer {self._token}"}
        options: Json = {"params": query, "headers": headers, "timeout": TIMEOUT, "allow_redirects": False}
        with new_session() as session:
            if file is None:
                return session.request(verb, url, json=body, **options)
            headers["Content-Type"] = "application/octet-stream"
            with file.open("rb") as stream:
                counted = CountedFile(stream, file.stat().st_size, progress)
                try:
                    response = session.request(verb, url, data=counted, **options)
                    if response.ok:
                        return response
                except BaseException:
                    progress(-counted.sent)
                    raise
                progress(-counted.sent)
                return response

    def _require_ours(self, url: str) -> None:
        """Refuse to send the token to an address that is not the service's, whoever has named it."""
        ours, theirs = urlsplit(self.base), urlsplit(url)
        same = (ours.scheme, ours.hostname, ours.port) == (theirs.scheme, theirs.hostname, theirs.port)
        host = theirs.hostname or ""
        family = self._family and theirs.scheme == "https" and f".{host}".endswith(f".{self._family}")
        if not same and not (family and f".{ours.hostname}".endswith(f".{self._family}")):
            raise RegistryError(f"{self.label}: {host} is no address of {self.base}", hint="no token was sent")

    def _later(self, response: requests.Response, seconds: float | None) -> float | None:
        """Return the seconds to wait before another try, None where none would help."""
        if seconds is None or response.status_code not in _TRANSIENT:
            return None
        said = response.headers.get("Retry-After", "")
        reset = response.headers.get("X-RateLimit-Reset", "")
        if said.isdigit():
            seconds = float(said)
        elif response.status_code == requests.codes.too_many_requests and reset.isdigit():
            seconds = max(float(reset) - time.time(), 1.0)
        return seconds if seconds <= LONGEST_WAIT else None

    def _wait(self, seconds: float, what: str, problem: str) -> None:
        if seconds >= 2:  # noqa: PLR2004 - a person would wonder
            output.say(f"{self.label}: {what}: {problem}: trying again in {seconds:.0f} s")
        time.sleep(seconds)

    def _document(self, response: requests.Response, what: str) -> Any:
        if not response.content:
            return {}
        try:
            return response.json()
        except ValueError as error:
            raise RegistryError(f"{self.label}: cannot {what}: the answer is not JSON") from error

    def _explain(self, response: requests.Response, what: str) -> Exception:
        try:
            document = response.json()
        except ValueError:
            document = {}
        said = self._clean(_message(document) or response.reason or "")
        text = f"{self.label}: cannot {what}: {response.status_code} {said}".rstrip()
        kind = _KINDS.get(response.status_code, RegistryError)
        access = kind is AccessError
        return kind(text, hint=f"is {self._variable} right, and may it write?" if access else "")

    def _clean(self, text: str) -> str:
        return text.replace(self._token, "***")


def _message(document: Any) -> str:
    """Read Zenodo's {message, errors: [{field, messages}]} or OSF's {errors: [{detail}]}."""
    if not isinstance(document, dict):
        return ""
    errors = [e for e in document.get("errors") or [] if isinstance(e, dict)]
    parts = [
        str(e.get("detail") or f"{e.get('field', '')}: {e.get('messages') or e.get('message', '')}") for e in errors
    ]
    return "; ".join([str(document["message"])] * ("message" in document) + parts)[:500]


def md5(path: Path) -> str:
    """Return the MD5 that Zenodo computes; against accidents only, the manifest's SHA-256 is what is believed."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def require_arrived(label: str, file: LocalAsset, expected: str, got: str) -> None:
    """Raise where a service has computed another digest than ours."""
    if got.removeprefix("md5:") != expected:
        raise IntegrityError(
            f"{label}: {file.name} arrived with other bytes", hint="run the same command again: it is sent anew"
        )
