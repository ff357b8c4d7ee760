"""Zenodo and OSF of our own on loopback: they refuse what the documentation of the real ones forbids."""

from __future__ import annotations

import hashlib
import json
import re
import socket
import struct
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "canary-place-token-9f3"


class Refused(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, message: str = "", headers: dict[str, str] | None = None) -> None:
        super().__init__(status, message)
        self.status, self.message, self.headers = status, message, headers or {}


class Place:
    """A server with a log and faults: `faults` holds (method, path, what), what: a Refused, "reset" or "lost"."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.faults: list[tuple[str, str, Any]] = []
        self.received = 0  # bytes of uploads

    def __enter__(self) -> Self:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"place": self}))
        self._server.daemon_threads = True
        self._server.block_on_close = False
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def count(self, method: str, path: str = "") -> int:
        return sum(1 for m, p, _ in self.requests if m == method and re.search(path, p))

    def serve(self, method: str, path: str, query: dict[str, str], headers: dict[str, str], body: bytes) -> Any:
        raise NotImplementedError

    def signed_in(self, headers: dict[str, str]) -> None:
        if headers.get("authorization") != f"Bearer {TOKEN}":
            raise Refused(401, "Unauthorized")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    place: Place

    def log_message(self, *_: object) -> None:
        pass

    def handle(self) -> None:
        with suppress(ConnectionError):
            super().handle()

    def do_GET(self) -> None:
        headers = {key.lower(): value for key, value in self.headers.items()}
        parts = urlsplit(self.path)
        query = {k: v[-1] for k, v in parse_qs(parts.query, keep_blank_values=True).items()}
        self.place.requests.append((self.command, self.path, headers))
        fault = next((f for f in self.place.faults if f[0] == self.command and re.search(f[1], self.path)), None)
        if fault:
            self.place.faults.remove(fault)
            if fault[2] == "reset":
                self.rfile.read(1000)
                self._break()
                return
        body = self.rfile.read(int(headers.get("content-length", 0)))
        try:
            if fault and isinstance(fault[2], Refused):
                raise fault[2]
            status, answer = self.place.serve(self.command, unquote(parts.path), query, headers, body)
        except Refused as refused:
            status, answer = refused.status, {"message": refused.message, "status": refused.status}
            if refused.headers:
                self._send(status, answer, refused.headers)
                return
        if fault and fault[2] == "lost":
            self._break()
            return
        self._send(status, answer, {})

    do_POST = do_PUT = do_DELETE = do_HEAD = do_GET

    def _send(self, status: int, answer: Any, headers: dict[str, str]) -> None:
        data = answer if isinstance(answer, bytes) else b"" if answer is None else json.dumps(answer).encode()
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _break(self) -> None:
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        socket.close(self.connection.detach())


def file_body(headers: dict[str, str], body: bytes) -> bytes:
    """Return an upload; it needs a length and must be neither a form nor empty."""
    if "content-length" not in headers or not body:
        raise Refused(400, "no content")
    if "multipart" in headers.get("content-type", "") or "json" in headers.get("content-type", ""):
        raise Refused(415, "raw bytes are wanted")
    return body


class FakeZenodo(Place):
    """Depositions, buckets, publication."""

    def __init__(self) -> None:
        super().__init__()
        self.depositions: dict[int, dict[str, Any]] = {}
        self.bytes: dict[tuple[int, str], bytes] = {}
        self.lag = False  # the list does not show drafts yet

    def serve(self, method: str, path: str, query: dict[str, str], headers: dict[str, str], body: bytes) -> Any:
        public = re.fullmatch(r"/records/(\d+)/files/(.+)", path)
        if public and method in ("GET", "HEAD"):
            number, name = int(public[1]), public[2]
            if not self.depositions.get(number, {}).get("submitted") or (number, name) not in self.bytes:
                raise Refused(404)
            return 200, self.bytes[number, name]
        self.signed_in(headers)
        if bucket := re.fullmatch(r"/api/files/bucket-(\d+)/([^/]+)", path):
            return self._bucket(int(bucket[1]), bucket[2], method, headers, body)
        found = re.fullmatch(r"/api/deposit/depositions(?:/(\d+)(/.*)?)?", path)
        if not found:
            raise Refused(404)
        if found[1] is None:
            return self._collection(method, query, headers, body)
        deposition = self.depositions.get(int(found[1]))
        if deposition is None:
            raise Refused(404, "PID does not exist.")
        return self._one(deposition, method, found[2] or "", headers, body)

    def _collection(self, method: str, query: dict[str, str], headers: dict[str, str], body: bytes) -> Any:
        if method == "GET":
            size, page = int(query.get("size", 10)), int(query.get("page", 1))
            found = [self._view(d) for d in self.depositions.values() if d["submitted"] or not self.lag]
            return 200, found[(page - 1) * size : page * size]
        number = 1000 + len(self.depositions)
        self.depositions[number] = {"id": number, "submitted": False, "metadata": {}}
        self._describe(self.depositions[number], headers, body)
        return 201, self._view(self.depositions[number])

    def _one(self, deposition: dict[str, Any], method: str, rest: str, headers: dict[str, str], body: bytes) -> Any:
        number = deposition["id"]
        if method == "GET" and not rest:
            return 200, self._view(deposition)
        if deposition["submitted"]:
            raise Refused(403, "Deposition is published")
        if method == "PUT" and not rest:
            self._describe(deposition, headers, body)
            return 200, self._view(deposition)
        if method == "DELETE" and rest.startswith("/files/"):
            name = next((n for k, n in self.bytes if k == number and f"/files/id-{n}" == rest), None)
            if name is None:
                raise Refused(404)
            del self.bytes[number, name]
            return 204, None
        if method == "POST" and rest == "/actions/publish":
            if not any(k == number for k, _ in self.bytes):
                raise Refused(400, "Minimum one file must be provided.")
            self._require_metadata(deposition["metadata"])
            deposition["submitted"] = True
            return 202, {**self._view(deposition), "record_id": number}
        raise Refused(405)

    def _describe(self, deposition: dict[str, Any], headers: dict[str, str], body: bytes) -> None:
        if not headers.get("content-type", "").startswith("application/json"):
            raise Refused(415, "Content-Type must be application/json")
        document = json.loads(body)
        if "metadata" in document:
            self._require_metadata(document["metadata"])
            deposition["metadata"] = document["metadata"]

    @staticmethod
    def _require_metadata(metadata: dict[str, Any]) -> None:
        missing = [k for k in ("title", "upload_type", "description", "creators") if not metadata.get(k)]
        if missing or not all(creator.get("name") for creator in metadata["creators"]):
            raise Refused(400, f"Validation error: {missing}")
        kinds = ("publication", "poster", "presentation", "dataset", "image", "video", "software", "lesson", "other")
        if metadata["upload_type"] not in (*kinds, "physicalobject"):
            raise Refused(400, "upload_type")
        if metadata.get("access_right") in ("open", "embargoed") and not metadata.get("license"):
            raise Refused(400, "license")
        if not re.fullmatch(r"\d{4}-\d\d-\d\d", metadata.get("publication_date", "2026-01-01")):
            raise Refused(400, "publication_date")

    def _bucket(self, number: int, name: str, method: str, headers: dict[str, str], body: bytes) -> Any:
        if method != "PUT" or number not in self.depositions:
            raise Refused(404)
        if self.depositions[number]["submitted"]:
            raise Refused(403, "Bucket is locked")
        data = file_body(headers, body)
        self.received += len(data)
        self.bytes[number, name] = data
        return 201, {"key": name, "size": len(data), "checksum": f"md5:{_md5(data)}"}

    def _view(self, deposition: dict[str, Any]) -> dict[str, Any]:
        number = deposition["id"]
        files = [
            {"id": f"id-{n}", "filename": n, "filesize": len(data), "checksum": _md5(data)}
            for (k, n), data in self.bytes.items()
            if k == number
        ]
        links = {"bucket": f"{self.url}/api/files/bucket-{number}"}
        return {
            **deposition,
            "files": files,
            "links": links,
            "state": "done" if deposition["submitted"] else "unsubmitted",
        }


class FakeOsf(Place):
    """Projects, and WaterButler's folders and files."""

    def __init__(self) -> None:
        super().__init__()
        self.nodes: dict[str, dict[str, Any]] = {}
        self.entities: dict[str, dict[str, Any]] = {}  # id → name, kind, node, parent, data

    def serve(self, method: str, path: str, query: dict[str, str], headers: dict[str, str], body: bytes) -> Any:
        if file := re.fullmatch(r"/v1/resources/(\w+)/providers/osfstorage/(.*)", path):
            if method in ("GET", "HEAD") and "meta" not in query:  # public projects are open to everybody
                return 200, self._entity(file[2], "file")["data"]
            self.signed_in(headers)
            return self._storage(method, file[1], file[2], query, headers, body)
        self.signed_in(headers)
        if path == "/v2/users/me/nodes/" and method == "GET":
            word = query.get("filter[title]", "").lower()
            return 200, {"data": [n for n in self.nodes.values() if word in n["attributes"]["title"].lower()]}
        if path == "/v2/nodes/" and method == "POST":
            return self._create(json.loads(body))
        if found := re.fullmatch(r"/v2/nodes/(\w+)/(files/)?", path):
            if found[1] not in self.nodes:
                raise Refused(404, "Not found.")
            if not found[2]:
                return 200, {"data": self.nodes[found[1]]}
            attributes = {"provider": "osfstorage", "kind": "folder", "name": "osfstorage", "path": "/"}
            return 200, {"data": [{"attributes": attributes, "links": self._links(found[1], "")}]}
        raise Refused(404)

    def add_node(self, node: str, title: str, *, public: bool = True) -> None:
        attributes = {"title": title, "category": "software", "public": public}
        self.nodes[node] = {"id": node, "type": "nodes", "attributes": attributes}

    def _create(self, document: dict[str, Any]) -> Any:
        data = document["data"]
        if data.get("type") != "nodes" or not data["attributes"].get("title"):
            raise Refused(400, "type and title are required")
        if data["attributes"].get("category") not in ("analysis", "data", "project", "software", "other"):
            raise Refused(400, "not a category")
        node = f"abc{len(self.nodes):02}"
        self.add_node(node, data["attributes"]["title"], public=data["attributes"].get("public", False))
        return 201, {"data": self.nodes[node]}

    def _storage(
        self, method: str, node: str, place: str, query: dict[str, str], headers: dict[str, str], body: bytes
    ) -> Any:
        if place and not place.endswith("/"):  # a file
            entity = self._entity(place, "file")
            if method == "GET":
                return 200, {"data": self._view(place, entity)}
            if method != "PUT" or query.get("kind") != "file":
                raise Refused(400)
            entity["data"] = file_body(headers, body)
            self.received += len(body)
            return 200, {"data": self._view(place, entity)}
        parent = place.removesuffix("/")
        if parent:
            self._entity(parent, "folder")
        inside = {e["name"]: key for key, e in self.entities.items() if (e["node"], e["parent"]) == (node, parent)}
        if method == "GET":
            return 200, {"data": [self._view(key, self.entities[key]) for key in inside.values()]}
        name, kind = query.get("name", ""), query.get("kind", "")
        if method != "PUT" or not name or kind not in ("file", "folder"):
            raise Refused(400)
        if name in inside:
            raise Refused(409, f'Cannot complete action: file or folder "{name}" already exists in this location')
        key = f"e{len(self.entities):05}"
        data = b"" if kind == "folder" else file_body(headers, body)
        if kind == "folder" and body:
            raise Refused(413, "no body is expected")
        self.received += len(data)
        self.entities[key] = {"name": name, "kind": kind, "node": node, "parent": parent, "data": data}
        return 201, {"data": self._view(key, self.entities[key])}

    def _entity(self, key: str, kind: str) -> dict[str, Any]:
        entity = self.entities.get(key)
        if entity is None or entity["kind"] != kind:
            raise Refused(404)
        return entity

    def _view(self, key: str, entity: dict[str, Any]) -> dict[str, Any]:
        attributes: dict[str, Any] = {"name": entity["name"], "kind": entity["kind"], "provider": "osfstorage"}
        if entity["kind"] == "folder":
            return {"attributes": attributes, "links": self._links(entity["node"], f"{key}/")}
        hashes = {"md5": _md5(entity["data"]), "sha256": hashlib.sha256(entity["data"]).hexdigest()}
        attributes |= {"size": len(entity["data"]), "extra": {"hashes": hashes}}
        address = f"{self.url}/v1/resources/{entity['node']}/providers/osfstorage/{key}"
        return {"attributes": attributes, "links": {"upload": f"{address}?kind=file", "download": address}}

    def _links(self, node: str, place: str) -> dict[str, str]:
        address = f"{self.url}/v1/resources/{node}/providers/osfstorage/{place}"
        return {"upload": f"{address}?kind=file", "new_folder": f"{address}?kind=folder"}


def _md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()
