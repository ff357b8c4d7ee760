"""The Open Science Framework as the second place: a public project a model, in its storage a folder a release.

Projects are found and made through OSF's API (JSON:API, api.osf.io/v2), files through the storage's own (WaterButler,
files.osf.io/v1), which answers 201 for a new file, 200 for a new version, 409 where the name is taken, and tells the
SHA-256 of what it has.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from registry import output
from registry.errors import ConflictError, MregError, NotFoundError
from registry.places.web_api import Json, WebApi, require_arrived
from registry.refs import split

if TYPE_CHECKING:
    from registry.places import Deposit
    from registry.release_plan import LocalAsset

_PROJECT = re.compile(r"/?([a-z0-9]{5,})/?")


class Osf:
    """osf.io or a server that speaks the same language; an address with a path names the project to use."""

    public = True

    def __init__(self, url: str) -> None:
        parts = split(url)
        host = "api.osf.io" if parts.hostname in ("osf.io", "www.osf.io") else parts.netloc
        path = parts.path.removeprefix("/v2")
        project = _PROJECT.fullmatch(path)
        if path.strip("/") and not project:
            raise MregError(f"{url}: not the address of a project", hint="for example osf:https://osf.io/abc12")
        self._project = project[1] if project else ""
        self.label = f"osf:{parts.scheme}://{parts.netloc}"
        self._api = WebApi("OSF", f"{parts.scheme}://{host}", "OSF_TOKEN", family="osf.io")

    def copy(self, deposit: Deposit) -> dict[str, str]:
        """Put the files into the project's folder of this release."""
        project = self._given() if self._project else (self._found(deposit) or self._created(deposit))
        root = self._storage(project)
        folder = self._folder(root, deposit.tag)
        there = self._children(folder)
        addresses = {}
        for file in deposit.files:
            entity = there.get(file.name)
            if entity is None or _sha256(entity) != file.sha256:
                entity = self._upload(folder, entity, file)
            # The address has no file name; a fragment says it to us and goes to no server.
            addresses[file.name] = f"{entity['links']['download']}#{file.name}"
        return addresses

    def _given(self) -> str:
        node = self._api.call("GET", f"v2/nodes/{self._project}/", what=f"read the project {self._project}")["data"]
        if not node["attributes"]["public"]:
            raise MregError(f"OSF: the project {self._project} is private", hint="make it public in its settings first")
        return self._project

    def _found(self, deposit: Deposit) -> str:
        query = {"filter[title]": deposit.name}
        answer = self._api.call("GET", "v2/users/me/nodes/", what="list your projects", query=query)
        for node in answer["data"]:
            if node["attributes"]["title"] == deposit.name and node["attributes"]["public"]:
                return str(node["id"])
        return ""

    def _created(self, deposit: Deposit) -> str:
        attributes = {
            "title": deposit.name,
            "category": "software",
            "description": deposit.description,
            "public": True,
        }
        body = {"data": {"type": "nodes", "attributes": attributes}}
        node = self._api.call("POST", "v2/nodes/", what=f"create the project {deposit.name}", body=body)["data"]
        output.say(f"OSF: created the public project {node['id']}")
        return str(node["id"])

    def _storage(self, project: str) -> Json:
        providers = self._api.call("GET", f"v2/nodes/{project}/files/", what="find the project's storage")["data"]
        for provider in providers:
            if provider["attributes"]["provider"] == "osfstorage":
                found: Json = provider
                return found
        raise NotFoundError(f"OSF: the project {project} has no storage of OSF's own")

    def _folder(self, root: Json, name: str) -> Json:
        there = self._children(root, kind="folder")
        if name in there:
            return there[name]
        try:
            address = _without_query(root["links"]["new_folder"])
            query = {"kind": "folder", "name": name}
            made: Json = self._api.call("PUT", address, what=f"create the folder {name}", query=query)["data"]
        except ConflictError:  # the answer of an earlier try was lost
            return self._children(root, kind="folder")[name]
        return made

    def _children(self, folder: Json, kind: str = "file") -> dict[str, Json]:
        address = _without_query(folder["links"]["upload"])
        entries = self._api.call("GET", address, what="list the files", query={"meta": ""})["data"]
        return {e["attributes"]["name"]: e for e in entries if e["attributes"]["kind"] == kind}

    def _upload(self, folder: Json, there: Json | None, file: LocalAsset) -> Json:
        """Send a new file, or a new version of one whose bytes are not the release's (cut off, for example)."""
        parent, query = there or folder, {"kind": "file"} if there else {"kind": "file", "name": file.name}
        address = _without_query(parent["links"]["upload"])
        with output.byte_progress(f"OSF: {file.name}", file.size) as progress:
            try:
                entity: Json = self._api.call(
                    "PUT", address, what=f"upload {file.name}", query=query, file=file.path, progress=progress
                )["data"]
            except ConflictError:  # sent before, but the answer was lost
                entity = self._children(folder)[file.name]
        require_arrived("OSF", file, file.sha256, _sha256(entity))
        return entity


def _sha256(entity: Json) -> str:
    hashes = (entity["attributes"].get("extra") or {}).get("hashes") or {}
    return str(hashes.get("sha256", ""))


def _without_query(address: str) -> str:
    return address.partition("?")[0]
