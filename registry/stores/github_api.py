"""GitHub's JSON API: one call that waits where waiting helps, and says what went wrong where it does not."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import requests
import urllib3
from github import Auth, Github, GithubException

from registry import __version__, output
from registry.errors import AccessError, ConflictError, IntegrityError, MregError, NotFoundError, RegistryError
from registry.refs import split

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")

PAGE = 100  # GitHub gives at most so many entries an answer
NETWORK_FAULTS = (requests.RequestException, urllib3.exceptions.HTTPError, ConnectionError, TimeoutError)
_TRANSIENT = (408, 429, 500, 502, 503, 504)
_PERMISSIONS = {  # ours → fine-grained token, classic token
    "contents": ("Contents: write", "repo"),
    "administration": ("Administration: write", "repo, and the right to create repositories in the organisation"),
    "issues": ("Issues: write", "repo"),
    "actions": ("Actions: write", "repo"),
}
_SIGN_IN = (
    "make one at https://github.com/settings/tokens (fine-grained: {fine}; classic: {classic}; "
    "workflow files also need Workflows: write, classic: workflow), then: export GITHUB_TOKEN=..."
)


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How fast to ask and how long to wait, in seconds; GitHub asks for a second between writes."""

    between_requests: float = 0.25
    between_writes: float = 1.0
    tries: int = 6
    longest_wait: float = 120.0
    sleep: Callable[[float], None] = time.sleep


PACE = Pace()


class Refusal(Exception):  # noqa: N818 - it may be a refusal or only a "later"
    """An answer of GitHub's that is not a success."""

    def __init__(self, status: int, document: Any, headers: dict[str, str]) -> None:
        super().__init__(status)
        self.status = status
        self.headers = {key.lower(): value for key, value in headers.items()}
        fields = document if isinstance(document, dict) else {}
        self.errors = [e for e in fields.get("errors") or [] if isinstance(e, dict)]
        details = [str(e.get("message") or f"{e.get('field', '')} {e.get('code', '')}".strip()) for e in self.errors]
        self.text = "; ".join([str(fields.get("message") or f"status {status}").strip(), *details])

    @property
    def limited(self) -> bool:
        """Whether this is a rate limit and not a lack of permission."""
        talk = self.text.lower()
        limit = "retry-after" in self.headers or "rate limit" in talk or "abuse" in talk
        return self.status in (403, 429) and (limit or self.headers.get("x-ratelimit-remaining") == "0")

    @property
    def duplicate(self) -> bool:
        """Whether something of that name exists already."""
        return self.status == 422 and (  # noqa: PLR2004 - HTTP
            any(e.get("code") == "already_exists" for e in self.errors) or "already exists" in self.text
        )

    def wait(self, attempt: int) -> float:
        """Return the seconds that GitHub asks to wait, or the next step of the back-off."""
        if self.headers.get("retry-after", "").isdecimal():
            return float(self.headers["retry-after"])
        if self.headers.get("x-ratelimit-remaining") == "0":
            return max(float(self.headers.get("x-ratelimit-reset", 0)) - time.time(), 1.0)
        return 60.0 if self.limited else 2.0**attempt  # a limit without a number means a minute


class Spoiled(Exception):  # noqa: N818 - bytes that arrived changed: worth another try
    """A transfer that ended well and brought something else than was sent."""


@dataclass(frozen=True, kw_only=True)
class Token:
    """What GitHub tells of a token."""

    given: bool
    scopes: tuple[str, ...] | None  # of a classic token; None where GitHub does not tell
    limit: int  # requests an hour
    remaining: int


class GitHubApi:
    """The API of github.com or of a GitHub Enterprise server, with the user's token if there is one."""

    def __init__(self, *, url: str | None = None, token: str | None = None, pace: Pace | None = None) -> None:
        self.url = (url or os.environ.get("GITHUB_API_URL") or "https://api.github.com").rstrip("/")
        parts = split(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise MregError(f"GITHUB_API_URL={self.url!r} is not an address", hint="for example https://HOST/api/v3")
        self.pace = pace or PACE
        self.token = (token or os.environ.get("GITHUB_TOKEN") or os.environ.get("GH_TOKEN") or "").strip()
        self._lock = threading.Lock()
        # PyGithub never repeats a PATCH and repeats an upload blindly: its own repeating is off, ours is below.
        self._requester = Github(
            auth=Auth.Token(self.token) if self.token else None,
            base_url=self.url,
            user_agent=f"mreg/{__version__}",
            timeout=30,
            per_page=PAGE,
            retry=None,
            seconds_between_requests=self.pace.between_requests,
            seconds_between_writes=self.pace.between_writes,
        ).requester

    def call(
        self,
        verb: str,
        path: str,
        body: dict[str, Any] | None = None,
        *,
        where: str,
        what: str,
        needs: str = "",
        recover: Callable[[], Any] | None = None,
        also_later: tuple[int, ...] = (),
    ) -> Any:
        """Return the answer of one call.

        `where` and `what` ("lab/model_x", "create the release") go into messages; `needs` is the permission of a write.
        `recover` runs before another try and may find that the failed one was successful; `also_later` are statuses
        that here mean "try again".
        """
        self.require(needs, where, what)
        return self.patiently(
            lambda: self._ask(verb, path, None, body)[1],
            where=where, what=what, needs=needs, recover=recover, also_later=also_later,
        )  # fmt: skip

    def pages(self, path: str, *, where: str, what: str, **parameters: str) -> Iterator[Any]:
        """Yield the entries of a list, page after page."""
        page, more = 1, True
        while more:
            query = {**parameters, "per_page": PAGE, "page": page}
            headers, entries = self.patiently(partial(self._ask, "GET", path, query, None), where=where, what=what)
            if not isinstance(entries, list):
                raise RegistryError(f"{where}: {self.url} answers with something else than a list")
            yield from entries
            page, more = page + 1, 'rel="next"' in headers.get("link", "")

    def query(self, text: str, *, where: str, what: str) -> dict[str, Any]:
        """Return the data of a GraphQL query; what GitHub does not find or show is None in it."""
        answer = self.call("POST", self._requester.graphql_url, {"query": text}, where=where, what=what)
        data = answer.get("data") if isinstance(answer, dict) else None
        if not isinstance(data, dict):
            raise RegistryError(f"{where}: cannot {what}: {self.url} does not answer GraphQL")
        return data

    def once(self, verb: str, path: str, body: dict[str, Any], *, where: str, what: str) -> Any:
        """Return the answer of a call that must not be repeated, because nobody can tell whether it was done."""
        self.require("actions", where, what)
        for attempt in range(self.pace.tries):
            try:
                return self._ask(verb, path, None, body)[1]
            except Refusal as refusal:
                seconds = refusal.wait(attempt)
                last = attempt + 1 == self.pace.tries
                if last or not refusal.limited or seconds > self.pace.longest_wait:
                    raise self._explain(refusal, where, what, "actions") from refusal
                self.pace.sleep(seconds)  # a limit means that nothing was done
            except NETWORK_FAULTS as fault:
                raise self._unreachable(fault, where, what) from fault
        raise AssertionError("unreachable: the last try returns or raises")

    def conditional(self, path: str, etag: str, *, where: str, what: str) -> tuple[str, Any]:
        """Return the ETag and the document of an address, None for one that has not changed since that ETag."""

        def ask() -> tuple[str, Any]:
            headers, document = self._ask("GET", path, None, None, {"If-None-Match": etag} if etag else None)
            return headers.get("etag", ""), document

        return self.patiently(ask, where=where, what=what)

    def about_token(self) -> Token:
        """Ask what the token may do and how many requests are left; the question itself costs none."""
        headers, document = self.patiently(
            lambda: self._ask("GET", "/rate_limit", None, None), where=self.url, what="ask for the limits"
        )
        stated = {key.lower(): value for key, value in headers.items()}.get("x-oauth-scopes")
        scopes = None if stated is None else tuple(scope.strip() for scope in stated.split(",") if scope.strip())
        rate = document["resources"]["core"]
        return Token(given=bool(self.token), scopes=scopes, limit=rate["limit"], remaining=rate["remaining"])

    def require(self, needs: str, where: str, what: str) -> None:
        """Raise where a write has no token."""
        if needs and not self.token:
            fine, classic = _PERMISSIONS[needs]
            raise AccessError(
                f"{where}: cannot {what}: no GitHub token", hint=_SIGN_IN.format(fine=fine, classic=classic)
            )

    def patiently(
        self,
        action: Callable[[], T],
        *,
        where: str,
        what: str,
        needs: str = "",
        recover: Callable[[], T | None] | None = None,
        also_later: tuple[int, ...] = (),
    ) -> T:
        """Run an action; wait and repeat after network faults, 5xx answers and rate limits, for every verb."""
        for attempt in range(self.pace.tries):
            last, undone = attempt + 1 == self.pace.tries, False
            try:
                return action()
            except Refusal as refusal:
                undone = refusal.limited  # before anything was done: there is nothing to be found
                seconds, problem = refusal.wait(attempt), refusal.text
                later = refusal.status in (*_TRANSIENT, *also_later) or refusal.limited
                if last or not later or seconds > self.pace.longest_wait:
                    raise self._explain(refusal, where, what, needs) from refusal
            except Spoiled as spoiled:
                seconds, problem = 2.0**attempt, str(spoiled)
                if last:
                    raise IntegrityError(f"{where}: {spoiled}", hint="try again, or over another network") from spoiled
            except NETWORK_FAULTS as fault:
                seconds, problem = 2.0**attempt, "no connection"
                if last or isinstance(fault, requests.exceptions.SSLError):
                    raise self._unreachable(fault, where, what) from fault
            if seconds >= 2:  # noqa: PLR2004 - a person would wonder
                output.say(f"{where}: {self._clean(problem)}: trying again in {seconds:.0f} s")
            self.pace.sleep(seconds)
            if recover and not undone and (found := recover()) is not None:
                return found
        raise AssertionError("unreachable: the last try returns or raises")

    def trusts(self, url: str) -> bool:
        """Whether an address belongs to this GitHub, so that it may see the token."""
        ours, theirs = split(self.url), split(url)
        host = (ours.hostname or "").removeprefix("api.")
        hosts = (ours.hostname, host, f"uploads.{host}")
        same_port = theirs.hostname != ours.hostname or theirs.port == ours.port
        return theirs.hostname in hosts and theirs.scheme == ours.scheme and same_port

    def _ask(
        self, verb: str, path: str, query: Any, body: Any, headers: dict[str, str] | None = None
    ) -> tuple[dict[str, Any], Any]:
        try:
            with self._lock:  # PyGithub keeps one connection and its pace in fields
                return self._requester.requestJsonAndCheck(verb, path, parameters=query, headers=headers, input=body)
        except GithubException as error:
            raise Refusal(error.status, error.data, error.headers or {}) from None
        except ValueError as error:  # half a document; requests' own errors are OSErrors
            raise Refusal(502, {"message": f"not JSON: {error}"}, {}) from None
        except (RuntimeError, AssertionError) as error:  # PyGithub's way of refusing a redirect to elsewhere
            raise Refusal(421, {"message": f"redirected to another server: {error}"}, {}) from None

    def _explain(self, refusal: Refusal, where: str, what: str, needs: str) -> MregError:
        """Turn an answer into the error that says who must do what."""
        text = f"{where}: cannot {what}: GitHub answers {refusal.status}: {self._clean(refusal.text)}"
        fine, classic = _PERMISSIONS.get(needs, ("Contents: read", "repo"))
        if refusal.limited:
            hint = "wait, then run the same command again"
            return AccessError(text, hint=hint if self.token else f"{hint}; with a GITHUB_TOKEN the limit is higher")
        if refusal.status == 401:  # noqa: PLR2004 - HTTP
            new = _SIGN_IN.format(fine=fine, classic=classic)
            return AccessError(text, hint=f"the token is wrong or has expired; {new}")
        if refusal.status == 403:  # noqa: PLR2004 - HTTP
            wanted = refusal.headers.get("x-accepted-github-permissions") or fine
            return AccessError(text, hint=f"the token needs the permission {wanted} for {where} (classic: {classic})")
        if refusal.status in (404, 410):
            hint = f"is the name right? GitHub shows a private repository only to a token with {fine}"
            return NotFoundError(text, hint=f"{hint}, and workflow files need Workflows: write" if needs else hint)
        if refusal.status == 409 or refusal.duplicate:  # noqa: PLR2004 - HTTP
            return ConflictError(text, hint="look at what is there, then run the same command again")
        return RegistryError(text, hint="" if refusal.status in (400, 422) else "run the same command again later")

    def _unreachable(self, fault: Exception, where: str, what: str) -> MregError:
        hint = "check the network (and https_proxy), then run the same command again: it goes on"
        return RegistryError(f"{where}: cannot {what}: {self.url}: {self._clean(str(fault))}", hint=hint)

    def _clean(self, text: str) -> str:
        """Keep the token out of messages, whoever repeats it."""
        return text.replace(self.token, "***") if self.token else text
