"""Releases and their assets: drafts, publication, uploads, downloads."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from typing import TYPE_CHECKING, Any

from fakehub import views
from fakehub.routes import find_repo
from fakehub.server import Answer, HubError, Request, invalid, paged, route

if TYPE_CHECKING:
    from fakehub import FakeHub


def new_release(hub: FakeHub, repo: dict[str, Any], body: dict[str, Any], login: str) -> dict[str, Any]:
    """Add a release; a draft has neither a tag nor a claim on its name."""
    git = hub.git(repo)
    if git.empty:
        raise HubError(422, "Repository is empty.")
    if not body.get("tag_name"):
        raise invalid("Release", "tag_name", "missing_field")
    number = hub.next_id()
    release = {
        "id": number, "tag_name": body["tag_name"], "name": body.get("name"), "body": body.get("body"), "draft": True,
        "target_commitish": body.get("target_commitish") or repo["default_branch"], "published_at": None,
        "prerelease": bool(body.get("prerelease")), "immutable": False, "author": login, "assets": {},
        "created_at": hub.now(), "secret": secrets.token_hex(10),
    }  # fmt: skip
    if not body.get("draft"):
        _publish(hub, repo, release, body)
    repo["releases"][str(number)] = release
    return release


def _publish(hub: FakeHub, repo: dict[str, Any], release: dict[str, Any], body: dict[str, Any]) -> None:
    git, tag = hub.git(repo), release["tag_name"]
    if not re.fullmatch(r"[^\s~^:?*\[\\]+", tag):
        raise invalid("Release", "tag_name")
    if any(r["tag_name"] == tag and not r["draft"] for r in repo["releases"].values()):
        raise invalid("Release", "tag_name", "already_exists")
    target = release["target_commitish"]
    sha = target if git.commit(target) else git.ref(f"refs/heads/{target}")
    if sha is None:
        raise invalid("Release", "target_commitish")
    if not git.ref(f"refs/tags/{tag}"):
        git.set_ref(f"refs/tags/{tag}", sha)
    release.update(draft=False, published_at=hub.now(), immutable=repo["immutable"])
    if body.get("make_latest", "true") == "true":
        repo["latest"] = release["id"]


def new_asset(
    hub: FakeHub, release: dict[str, Any], name: str, content_type: str, label: str, login: str
) -> dict[str, Any]:
    """Add an asset without bytes, in the state of an upload that has begun."""
    number = hub.next_id()
    asset = {
        "id": number, "name": name, "label": label, "content_type": content_type, "state": "starter", "size": 0,
        "digest": None, "created_at": hub.now(), "uploader": login,
    }  # fmt: skip
    release["assets"][str(number)] = asset
    return asset


@route("GET /repos/{owner}/{repo}/releases")
def list_releases(hub: FakeHub, request: Request, owner: str, repo: str) -> Answer:
    found = find_repo(hub, request, owner, repo)
    known = found["releases"]
    if request.fault and request.fault.kind == "lag":
        known = json.loads(hub.before.get(f"{found['owner']}/{found['name']}", "{}"))
    seen = [r for r in known.values() if not r["draft"] or "contents" in request.can]
    return paged(request, seen[::-1], lambda r: views.release(hub, found, r))


@route("POST /repos/{owner}/{repo}/releases")
def create_release(hub: FakeHub, request: Request, owner: str, repo: str) -> Answer:
    found = find_repo(hub, request, owner, repo, "contents")
    return Answer(views.release(hub, found, new_release(hub, found, request.body, request.login)), 201)


@route("GET /repos/{owner}/{repo}/releases/latest")
def latest_release(hub: FakeHub, request: Request, owner: str, repo: str) -> Answer:
    found = find_repo(hub, request, owner, repo)
    if found["latest"] is None:
        raise HubError(404)
    return Answer(views.release(hub, found, found["releases"][str(found["latest"])]))


@route("GET /repos/{owner}/{repo}/releases/tags/{tag+}")
def release_by_tag(hub: FakeHub, request: Request, owner: str, repo: str, tag: str) -> Answer:
    found = find_repo(hub, request, owner, repo)
    for release in found["releases"].values():
        if release["tag_name"] == tag and not release["draft"]:
            return Answer(views.release(hub, found, release))
    raise HubError(404)


@route("GET /repos/{owner}/{repo}/releases/{number}")
def get_release(hub: FakeHub, request: Request, owner: str, repo: str, number: str) -> Answer:
    found = find_repo(hub, request, owner, repo)
    return Answer(views.release(hub, found, hub.find_release(found, number, request.can)))


@route("PATCH /repos/{owner}/{repo}/releases/{number}")
def edit_release(hub: FakeHub, request: Request, owner: str, repo: str, number: str) -> Answer:
    found = find_repo(hub, request, owner, repo, "contents")
    release = hub.find_release(found, number, request.can)
    body = request.body
    release.update({k: body[k] for k in ("name", "body", "prerelease", "target_commitish") if k in body})
    if release["draft"]:  # GitHub forgets the tag of a draft that is edited without it
        release["tag_name"] = body.get("tag_name") or f"untagged-{release['secret']}"
        if body.get("draft") is False:
            _publish(hub, found, release, body)
    elif body.get("make_latest") == "true":
        found["latest"] = release["id"]
    return Answer(views.release(hub, found, release))


@route("DELETE /repos/{owner}/{repo}/releases/{number}")
def delete_release(hub: FakeHub, request: Request, owner: str, repo: str, number: str) -> Answer:
    found = find_repo(hub, request, owner, repo, "contents")
    release = hub.find_release(found, number, request.can)
    del found["releases"][str(release["id"])]
    if found["latest"] == release["id"]:
        found["latest"] = None
    return Answer(status=204)


@route("GET /repos/{owner}/{repo}/releases/{number}/assets")
def list_assets(hub: FakeHub, request: Request, owner: str, repo: str, number: str) -> Answer:
    found = find_repo(hub, request, owner, repo)
    release = hub.find_release(found, number, request.can)
    return paged(request, hub.assets(release), lambda a: views.asset(hub, found, release, a))


@route("POST /repos/{owner}/{repo}/releases/{number}/assets")
def upload(hub: FakeHub, request: Request, owner: str, repo: str, number: str) -> Answer:
    """Take an asset; whatever goes wrong half-way leaves a `starter` behind."""
    with hub.lock:
        found = find_repo(hub, request, owner, repo, "contents")
        release = hub.find_release(found, number, request.can)
        size = int(request.headers.get("content-length", 0))
        if not size or "transfer-encoding" in request.headers:
            raise HubError(400, "Bad Content-Length")
        if "content-type" not in request.headers:
            raise HubError(415, "Bad Content-Type")
        if release["immutable"]:
            raise HubError(422, "Cannot upload assets to an immutable release.")
        name = safe_name(request.query["name"])
        if any(a["name"] == name for a in release["assets"].values()):
            raise invalid("ReleaseAsset", "name", "already_exists")
        label = request.query.get("label", "")
        asset = new_asset(hub, release, name, request.headers["content-type"], label, request.login)
        hub.save()
    fault = request.fault
    if fault and fault.starter:
        raise HubError(fault.status, fault.message)
    digest, received = hashlib.sha256(), 0
    with hub.asset_path(asset["id"]).open("wb") as file:
        for chunk in request.stream():
            data = chunk
            if fault and fault.kind == "reset" and received + len(data) >= (fault.after or size // 2):
                raise ConnectionAbortedError
            if fault and fault.kind == "alter" and not received:
                data = bytes([data[0] ^ 1]) + data[1:]
            received += len(data)
            digest.update(data)
            file.write(data)
    with hub.lock:
        asset.update(state="uploaded", size=received, digest=f"sha256:{digest.hexdigest()}")
        hub.save()
        return Answer(views.asset(hub, found, release, asset), 201)


def safe_name(name: str) -> str:
    """Rename as GitHub does."""
    clean = re.sub(r"\.+", ".", re.sub(r"[^A-Za-z0-9_+@.-]", ".", name)).rstrip(".")
    return f"default{clean}" if clean.startswith(".") else clean


@route("GET /repos/{owner}/{repo}/releases/assets/{number}")
def get_asset(hub: FakeHub, request: Request, owner: str, repo: str, number: str) -> Answer:
    found = find_repo(hub, request, owner, repo)
    release, asset = hub.find_asset(found, number, request.can)
    if request.headers.get("accept") == "application/octet-stream":
        return Answer(status=302, headers={"Location": hub.sign(asset["id"])})
    return Answer(views.asset(hub, found, release, asset))


@route("DELETE /repos/{owner}/{repo}/releases/assets/{number}")
def delete_asset(hub: FakeHub, request: Request, owner: str, repo: str, number: str) -> Answer:
    found = find_repo(hub, request, owner, repo, "contents")
    release, asset = hub.find_asset(found, number, request.can)
    if release["immutable"]:
        raise HubError(422, "Cannot delete asset from an immutable release.")
    del release["assets"][str(asset["id"])]
    hub.asset_path(asset["id"]).unlink(missing_ok=True)
    return Answer(status=204)


@route("GET /{owner}/{repo}/releases/download/{tag}/{name}")
def download(hub: FakeHub, request: Request, owner: str, repo: str, tag: str, name: str) -> Answer:
    """The public address; drafts and private repositories do not have one, whatever token comes along."""
    found = hub.state["repos"].get(f"{owner}/{repo}")
    if found and not found["private"]:
        for release in found["releases"].values():
            for asset in release["assets"].values():
                whole = asset["state"] == "uploaded"
                if not release["draft"] and release["tag_name"] == tag and asset["name"] == name and whole:
                    return Answer(status=302, headers={"Location": hub.sign(asset["id"])})
    raise HubError(404)


@route("GET /release-assets/{number}")
def storage(hub: FakeHub, request: Request, number: str) -> Answer:
    """The storage behind the redirects: a signature instead of a token, and never both."""
    if "authorization" in request.headers:
        raise HubError(400, "Only one auth mechanism allowed")
    if hub.state["signatures"].get(request.query.get("sig", "")) != int(number):
        raise HubError(403, "Server failed to authenticate the request")
    path = hub.asset_path(int(number))
    if not path.is_file():
        raise HubError(404)
    found = path.stat()  # cheap where the file is large, and another one after every change
    etag = f'"{found.st_ino:x}-{found.st_size:x}-{found.st_mtime_ns:x}"'
    return Answer(headers={"ETag": etag}, file=path, content_type="application/octet-stream")
