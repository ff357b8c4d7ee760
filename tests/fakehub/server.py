"""HTTP for the hub: parsing, tokens, faults, the log, answers with ETag, pages and ranges."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlencode, urlsplit

if TYPE_CHECKING:
    from pathlib import Path

    from fakehub import FakeHub, Fault

DOCS = "https://docs.github.com/rest"
MESSAGES = {401: "Requires authentication", 403: "Forbidden", 404: "Not Found", 409: "Conflict"}
LIMIT = "You have exceeded a secondary rate limit. Please wait a few minutes before you try again."

QUOTA = "API rate limit exceeded for user ID 1."


class HubError(Exception):
    """An answer that is an error."""

    def __init__(
        self,
        status: int,
        message: str = "",
        *,
        errors: list[dict[str, Any]] | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(status, message)
        self.status, self.headers = status, headers or {}
        self.document: dict[str, Any] = {"message": message or MESSAGES.get(status, "Error")}
        if status == 422:
            self.document = {"message": message or "Validation Failed"}
            if errors:
                self.document["errors"] = errors
        self.document |= {"documentation_url": DOCS, "status": str(status)}


def invalid(resource: str, field_: str, code: str = "invalid") -> HubError:
    """A 422 that names a field."""
    return HubError(422, errors=[{"resource": resource, "field": field_, "code": code}])


@dataclass
class LoggedRequest:
    """One request as the hub saw it, and its answer."""

    method: str
    path: str  # with the query
    server: str  # "api" or "storage"
    headers: dict[str, str]  # names in small letters
    body: Any = None  # JSON
    status: int = 0  # 0: the connection was broken
    answer: Any = None  # JSON
    sent: int = 0  # bytes of a file that went out


@dataclass
class Request:
    """What a route gets."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    login: str
    can: set[str]
    stream: Callable[[], Iterator[bytes]]
    body: Any = None
    fault: Fault | None = None

    def need(self, permission: str) -> None:
        """Refuse who may not do this."""
        if not self.login:
            raise HubError(401)
        if permission not in self.can:
            raise HubError(
                403,
                "Resource not accessible by personal access token",
                headers={"X-Accepted-GitHub-Permissions": f"{permission}=write"},
            )


@dataclass
class Answer:
    """A document, or a file with its range, or nothing."""

    document: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    file: Path | None = None
    content_type: str = "application/json; charset=utf-8"


Route = Callable[..., Answer]
ROUTES: list[tuple[str, re.Pattern[str], Route]] = []


def route(pattern: str) -> Callable[[Route], Route]:
    """Register a route; `{path+}` takes slashes too."""
    method, _, path = pattern.partition(" ")
    expression = re.sub(r"\{(\w+)\+\}", r"(?P<\1>.+)", path)
    expression = re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", expression))

    def register(function: Route) -> Route:
        ROUTES.append((method, expression, function))
        return function

    return register


def paged(request: Request, items: list[Any], view: Callable[[Any], Any]) -> Answer:
    """Answer one page of a list, with GitHub's Link header."""
    size = min(int(request.query.get("per_page", 30)), 100)
    page = max(int(request.query.get("page", 1)), 1)
    last = max(-(-len(items) // size), 1)
    links = {"prev": page - 1, "next": page + 1, "first": 1, "last": last}
    wanted = [rel for rel in links if (page > 1 if rel in ("prev", "first") else page < last)]
    base = request.headers["x-hub-url"] + urlsplit(request.path).path
    parts = [f'<{base}?{urlencode({**request.query, "page": links[rel]})}>; rel="{rel}"' for rel in wanted]
    document = [view(item) for item in items[(page - 1) * size : page * size]]
    return Answer(document, headers={"Link": ", ".join(parts)} if parts else {})


def serve(hub: FakeHub, host: str, role: str) -> ThreadingHTTPServer:
    """Start one server in a thread."""
    server = ThreadingHTTPServer((host, 0), type("Handler", (Handler,), {"hub": hub, "role": role}))
    server.daemon_threads = True
    server.block_on_close = False
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    return server


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body are two writes; together with delayed ACKs that costs 40 ms each
    hub: FakeHub
    role: str

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the signature is http.server's
        """Keep quiet; `hub.requests` is the log."""

    def handle(self) -> None:
        """Serve a connection; a client that went away is no news."""
        with contextlib.suppress(ConnectionError, TimeoutError):
            super().handle()

    def do_GET(self) -> None:
        """Serve one request of any method."""
        try:
            self._serve()
        except ConnectionAbortedError:
            self._break()

    def _serve(self) -> None:
        headers = {key.lower(): value for key, value in self.headers.items()}
        logged = LoggedRequest(self.command, self.path, self.role, headers)
        self.left = int(headers.get("content-length", 0))
        self.hub.requests.append(logged)
        fault = self.hub.take_fault(self.command, self.path)
        kind = fault.kind if fault else ""
        if fault and kind == "latency":
            time.sleep(fault.seconds)
        if fault and kind == "reset" and not self._is_upload():
            self._read(fault.after)
            raise ConnectionAbortedError
        try:
            answer = self._faulty(fault) or self._answer(logged, fault)
        except HubError as error:
            answer = Answer(error.document, error.status, error.headers)
        if fault and kind == "lost":
            raise ConnectionAbortedError
        if fault and kind == "late":
            answer = Answer({"message": fault.message}, fault.status)
        self._send(logged, answer, fault)

    do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = do_GET

    def _is_upload(self) -> bool:
        return self.command == "POST" and "/assets?" in self.path

    def _faulty(self, fault: Fault | None) -> Answer | None:
        """Answer for a fault that keeps the request from being done; a starter needs the route."""
        if not fault or (fault.starter and self._is_upload()):
            return None
        if fault.kind == "status":
            return Answer({"message": fault.message, "documentation_url": DOCS}, fault.status, dict(fault.headers))
        if fault.kind == "quota":
            headers = {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": str(int(time.time() + fault.seconds))}
            return Answer({"message": QUOTA, "documentation_url": DOCS}, 403, headers)
        if fault.kind == "limit":
            headers = {} if fault.retry_after is None else {"Retry-After": str(fault.retry_after)}
            status = fault.status if fault.status in (403, 429) else 403
            return Answer({"message": LIMIT, "documentation_url": DOCS}, status, headers)
        return None

    def _answer(self, logged: LoggedRequest, fault: Fault | None) -> Answer:
        parts = urlsplit(self.path)
        query = {key: values[-1] for key, values in parse_qs(parts.query, keep_blank_values=True).items()}
        headers = {**logged.headers, "x-hub-url": self.hub.url}
        login, can = self._authorise(logged.headers) if self.role == "api" else ("", set())
        request = Request(self.command, self.path, query, headers, login, can, self._stream, fault=fault)
        if not self._is_upload() and self.left:
            try:
                logged.body = request.body = json.loads(self._read(self.left))
            except ValueError:
                raise HubError(400, "Problems parsing JSON") from None
        path = unquote(parts.path)
        if number := re.fullmatch(r"/repositories/(\d+)(/.*)?", path):
            names = [name for name, r in self.hub.state["repos"].items() if r["id"] == int(number[1])]
            path = f"/repos/{names[0]}{number[2] or ''}" if names else path
        for method, expression, function in ROUTES:
            wanted = "GET" if self.command == "HEAD" else self.command
            if method == wanted and (match := expression.fullmatch(path)):
                if (function.__name__ == "storage") != (self.role == "storage"):
                    continue
                if self.command != "GET" and "repo" in match.groupdict():
                    with self.hub.lock:
                        self.hub.remember(match["owner"], match["repo"])
                if function.__name__ == "upload":  # streams for a while, so it takes the lock by itself
                    return function(self.hub, request, **match.groupdict())
                with self.hub.lock:
                    answer = function(self.hub, request, **match.groupdict())
                    if self.command != "GET":
                        self.hub.save()
                    return answer
        raise HubError(404)

    def _authorise(self, headers: dict[str, str]) -> tuple[str, set[str]]:
        if "authorization" not in headers:
            return "", set()
        token = self.hub.state["tokens"].get(headers["authorization"].partition(" ")[2])
        if token is None:
            raise HubError(401, "Bad credentials")
        return token["login"], set(token["can"])

    def _read(self, count: int) -> bytes:
        data = self.rfile.read(min(count, self.left))
        self.left -= len(data)
        return data

    def _stream(self) -> Iterator[bytes]:
        while self.left:
            chunk = self._read(1 << 16)
            if not chunk:
                raise ConnectionAbortedError
            yield chunk

    def _break(self) -> None:
        """Reset the connection, so that the client sees an error and not an end."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        os.close(self.connection.detach())

    def _send(self, logged: LoggedRequest, answer: Answer, fault: Fault | None) -> None:
        for _ in self._stream():  # what nobody wanted to read
            pass
        logged.status, logged.answer = answer.status, answer.document
        headers = {"X-GitHub-Request-Id": "FAKE", **answer.headers}
        data, start, end = b"", 0, 0
        if answer.file:
            start, end, headers = self._range(answer, logged, headers)
        elif answer.document is not None:
            data = json.dumps(answer.document).encode()
            headers["ETag"] = f'W/"{hashlib.sha256(data).hexdigest()}"'
            known = logged.headers.get("if-none-match") == headers["ETag"]
            if known and logged.method == "GET" and answer.status == 200:
                logged.status, data = 304, b""
        length = end - start if answer.file else len(data)
        self.send_response(logged.status)
        for key, value in headers.items():
            self.send_header(key, value)
        if logged.status not in (204, 304):
            self.send_header("Content-Type", answer.content_type)
            self.send_header("Content-Length", str(length))
        self.end_headers()
        if fault and fault.kind == "truncate":
            length, self.close_connection = fault.after or length // 2, True
        if self.command == "HEAD":
            return
        if not answer.file:
            self.wfile.write(data[:length])
            return
        self._send_file(logged, answer.file, start, length, altered=fault is not None and fault.kind == "alter")

    def _send_file(self, logged: LoggedRequest, path: Path, start: int, length: int, *, altered: bool) -> None:
        with path.open("rb") as file:
            if length and not self.hub.rate and not altered:
                try:
                    self.connection.sendfile(file, start, length)
                finally:
                    logged.sent += file.tell() - start
                return
            file.seek(start)
            while length and (chunk := file.read(min(length, 1 << 18))):
                self.wfile.write(bytes([chunk[0] ^ 1]) + chunk[1:] if altered else chunk)
                logged.sent += len(chunk)
                if self.hub.rate:
                    time.sleep(len(chunk) / self.hub.rate)
                length, altered = length - len(chunk), False

    def _range(self, answer: Answer, logged: LoggedRequest, headers: dict[str, str]) -> tuple[int, int, dict[str, str]]:
        assert answer.file
        size = answer.file.stat().st_size
        etag = headers["ETag"]
        headers = {**headers, "Accept-Ranges": "bytes"}
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", logged.headers.get("range", ""))
        if not match or not self.hub.ranges or logged.headers.get("if-range", etag) != etag:
            return 0, size, headers
        start, end = int(match[1]), min(int(match[2] or size), size - 1) + 1
        if start >= size:
            logged.status = 416
            return 0, 0, {**headers, "Content-Range": f"bytes */{size}"}
        logged.status = 206
        return start, min(end, size), {**headers, "Content-Range": f"bytes {start}-{min(end, size) - 1}/{size}"}
