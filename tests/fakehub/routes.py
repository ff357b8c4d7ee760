"""Accounts, repositories, labels, protection, contents and Git data."""

from __future__ import annotations

import base64
import binascii
import re
from typing import TYPE_CHECKING, Any

from fakehub import views
from fakehub.server import Answer, HubError, Request, invalid, paged, route

if TYPE_CHECKING:
    from fakehub import FakeHub

EMPTY = "Git Repository is empty."


def find_repo(hub: FakeHub, request: Request, owner: str, repo: str, need: str = "") -> dict[str, Any]:
    """Return a repository that the caller may see, and may do this with."""
    key = f"{owner}/{repo}"
    if key in hub.state["renamed"]:
        found = hub.state["repos"][hub.state["renamed"][key]]
        rest = request.path.split(f"/repos/{key}", 1)[1]
        location = f"{hub.url}/repositories/{found['id']}{rest}"
        status = 301 if request.method == "GET" else 307
        raise HubError(status, "Moved Permanently", headers={"Location": location})
    found = hub.state["repos"].get(key)
    if found is None or found not in hub.visible_repos(owner, request.can):
        raise HubError(404)
    if need:
        request.need(need)
        if found["archived"]:
            raise HubError(403, "Repository was archived so is read-only.")
    return found


@route("GET /rate_limit")
def rate_limit(hub: FakeHub, request: Request) -> Answer:
    rate = {"limit": 5000 if request.login else 60, "used": 0, "remaining": 5000, "reset": 1893456000}
    return Answer({"resources": {"core": rate, "search": rate}, "rate": rate})


@route("POST /graphql")
def graphql(hub: FakeHub, request: Request) -> Answer:
    """The one query that the store asks: the releases of several repositories, each under an alias."""
    if not request.login:
        raise HubError(401, "This endpoint requires you to be authenticated.")
    data: dict[str, Any] = {}
    errors = []
    for alias, owner, name in re.findall(
        r'(\w+): repository\(owner: "([^"]+)", name: "([^"]+)"\)', request.body["query"]
    ):
        found = hub.state["repos"].get(f"{owner}/{name}")
        if name in hub.gaps:
            data[alias] = None
            errors.append({"path": [alias], "message": "Something went wrong while executing your query."})
            continue
        if found is None or found not in hub.visible_repos(owner, request.can):
            data[alias] = None
            errors.append({"type": "NOT_FOUND", "path": [alias], "message": f"Could not resolve to {owner}/{name}."})
            continue
        seen = [r for r in found["releases"].values() if not r["draft"] or "contents" in request.can]
        data[alias] = {"releases": {"nodes": [views.release_node(hub, found, r) for r in seen[:-21:-1]]}}
    return Answer({"data": data, **({"errors": errors} if errors else {})})


@route("GET /user")
def me(hub: FakeHub, request: Request) -> Answer:
    if not request.login:
        raise HubError(401)
    return Answer(views.account(hub, request.login))


@route("GET /users/{username}")
def account(hub: FakeHub, request: Request, username: str) -> Answer:
    if username not in hub.state["owners"]:
        raise HubError(404)
    return Answer(views.account(hub, username))


@route("GET /orgs/{org}/repos")
def org_repos(hub: FakeHub, request: Request, org: str) -> Answer:
    if hub.state["owners"].get(org) != "Organization":
        raise HubError(404)
    return _repos(hub, request, org)


@route("GET /users/{username}/repos")
def user_repos(hub: FakeHub, request: Request, username: str) -> Answer:
    if username not in hub.state["owners"]:
        raise HubError(404)
    return _repos(hub, request, username)


def _repos(hub: FakeHub, request: Request, owner: str) -> Answer:
    found = hub.visible_repos(owner, request.can)
    if request.query.get("sort") == "full_name":
        found = sorted(found, key=lambda r: r["name"].lower())
    return paged(request, found, lambda r: views.minimal_repo(hub, r))


@route("POST /orgs/{org}/repos")
def create_org_repo(hub: FakeHub, request: Request, org: str) -> Answer:
    if hub.state["owners"].get(org) != "Organization":
        raise HubError(404)
    return _create(hub, request, org)


@route("POST /user/repos")
def create_user_repo(hub: FakeHub, request: Request) -> Answer:
    return _create(hub, request, request.login)


def _create(hub: FakeHub, request: Request, owner: str) -> Answer:
    request.need("administration")
    name = request.body.get("name", "")
    description = request.body.get("description")
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,100}", name):
        raise invalid("Repository", "name")
    if re.search(r"[\x00-\x1f]", description or "") or len(description or "") > 350:
        raise invalid("Repository", "description")
    if f"{owner}/{name}" in hub.state["repos"]:
        error = {"resource": "Repository", "code": "custom", "field": "name"}
        raise HubError(
            422,
            "Repository creation failed.",
            errors=[{**error, "message": "name already exists on this account"}],
        )
    files = {"README.md": f"# {name}\n".encode()} if request.body.get("auto_init") else None
    repo = hub.add_repo(name, files, owner=owner, description=description, private=bool(request.body.get("private")))
    repo["labels"] = {"bug": ["d73a4a", "Something isn't working"], "question": ["d876e3", "Further information"]}
    return Answer(views.full_repo(hub, repo, request.can), 201)


@route("GET /repos/{owner}/{repo}")
def get_repo(hub: FakeHub, request: Request, owner: str, repo: str) -> Answer:
    return Answer(views.full_repo(hub, find_repo(hub, request, owner, repo), request.can))


@route("PATCH /repos/{owner}/{repo}")
def edit_repo(hub: FakeHub, request: Request, owner: str, repo: str) -> Answer:
    found = find_repo(hub, request, owner, repo, "administration")
    found.update({k: v for k, v in request.body.items() if k in ("description", "private", "archived")})
    return Answer(views.full_repo(hub, found, request.can))


@route("GET /repos/{owner}/{repo}/topics")
def get_topics(hub: FakeHub, request: Request, owner: str, repo: str) -> Answer:
    return Answer({"names": find_repo(hub, request, owner, repo)["topics"]})


@route("PUT /repos/{owner}/{repo}/topics")
def put_topics(hub: FakeHub, request: Request, owner: str, repo: str) -> Answer:
    found = find_repo(hub, request, owner, repo, "administration")
    names = request.body["names"]
    if len(names) > 20 or not all(re.fullmatch(r"[a-z0-9][a-z0-9-]{0,49}", name) for name in names):
        raise HubError(422, "Validation Failed")
    found["topics"] = names
    return Answer({"names": names})


@route("GET /repos/{owner}/{repo}/labels")
def get_labels(hub: FakeHub, request: Request, owner: str, repo: str) -> Answer:
    found = find_repo(hub, request, owner, repo)
    return paged(request, list(found["labels"]), lambda name: views.label(hub, found, name))


@route("POST /repos/{owner}/{repo}/labels")
def create_label(hub: FakeHub, request: Request, owner: str, repo: str) -> Answer:
    found = find_repo(hub, request, owner, repo, "issues")
    name, color = request.body["name"], request.body.get("color", "ededed")
    if name in found["labels"]:
        raise invalid("Label", "name", "already_exists")
    if not re.fullmatch(r"[0-9a-fA-F]{6}", color):
        raise invalid("Label", "color")
    found["labels"][name] = [color, request.body.get("description")]
    return Answer(views.label(hub, found, name), 201)


@route("GET /repos/{owner}/{repo}/branches/{branch}")
def get_branch(hub: FakeHub, request: Request, owner: str, repo: str, branch: str) -> Answer:
    found = find_repo(hub, request, owner, repo)
    git = hub.git(found)
    sha = git.ref(f"refs/heads/{branch}")
    if sha is None:
        raise HubError(404, "Branch not found")
    url = f"{hub.url}/repos/{owner}/{repo}/branches/{branch}"
    wanted = found["protection"].get(branch)
    document = {
        "name": branch,
        "commit": views.commit(hub, found, git.commit(sha) or {}),
        "_links": {"self": url, "html": f"{hub.url}/{owner}/{repo}/tree/{branch}"},
        "protected": wanted is not None,
        "protection": {"enabled": wanted is not None},
        "protection_url": f"{url}/protection",
    }
    return Answer(document)


@route("GET /repos/{owner}/{repo}/branches/{branch}/protection")
def get_protection(hub: FakeHub, request: Request, owner: str, repo: str, branch: str) -> Answer:
    found = find_repo(hub, request, owner, repo, "administration")
    if branch not in found["protection"]:
        raise HubError(404, "Branch not protected")
    return Answer(views.protection(_protection_url(hub, found, branch), found["protection"][branch]))


@route("PUT /repos/{owner}/{repo}/branches/{branch}/protection")
def put_protection(hub: FakeHub, request: Request, owner: str, repo: str, branch: str) -> Answer:
    found = find_repo(hub, request, owner, repo, "administration")
    if hub.git(found).ref(f"refs/heads/{branch}") is None:
        raise HubError(404, "Branch not found")
    for key in ("required_status_checks", "enforce_admins", "required_pull_request_reviews", "restrictions"):
        if key not in request.body:
            raise HubError(422, f'Invalid request.\n\n"{key}" wasn\'t supplied.')
    found["protection"][branch] = request.body
    return Answer(views.protection(_protection_url(hub, found, branch), request.body))


def _protection_url(hub: FakeHub, repo: dict[str, Any], branch: str) -> str:
    return f"{hub.url}/repos/{repo['owner']}/{repo['name']}/branches/{branch}/protection"


@route("GET /repos/{owner}/{repo}/contents/{path+}")
def get_contents(hub: FakeHub, request: Request, owner: str, repo: str, path: str) -> Answer:
    found = find_repo(hub, request, owner, repo)
    git = hub.git(found)
    sha = _commit_of(git, found, request.query.get("ref", "HEAD"))
    if git.empty or git.commit(sha) is None:
        raise HubError(404, "This repository is empty." if git.empty else "No commit found for the ref")
    files = git.files((git.commit(sha) or {})["tree"])
    if path in files:
        return Answer(views.content_file(hub, found, git, path, files[path][1]))
    below = [p for p in files if p.startswith(f"{path}/") and "/" not in p[len(path) + 1 :]]
    if not below:
        raise HubError(404)
    return Answer([views.content_file(hub, found, git, p, files[p][1]) for p in below])


@route("PUT /repos/{owner}/{repo}/contents/{path+}")
def put_contents(hub: FakeHub, request: Request, owner: str, repo: str, path: str) -> Answer:
    found = find_repo(hub, request, owner, repo, "contents")
    _need_workflows(request, [path])
    git = hub.git(found)
    branch = f"refs/heads/{request.body.get('branch', found['default_branch'])}"
    head = git.ref(branch)
    if head is None and not git.empty:
        raise HubError(404, "Branch not found")
    files = git.files((git.commit(head) or {})["tree"]) if head else {}
    old, given = files.get(path), request.body.get("sha")
    if old and not given:
        raise HubError(422, 'Invalid request.\n\n"sha" wasn\'t supplied.')
    if old and given != old[1]:
        raise HubError(409, f"{path} does not match {given}")
    files[path] = ("100644", git.write("blob", _decode(request.body["content"])))
    who = _person(hub, request, request.body.get("author"))
    sha = git.write_commit(git.write_tree(files), [head] if head else [], request.body["message"], who, who)
    git.set_ref(branch, sha)
    document = {
        "content": views.content_file(hub, found, git, path, files[path][1]),
        "commit": views.git_commit(hub, found, git.commit(sha) or {}),
    }
    return Answer(document, 200 if old else 201)


@route("POST /repos/{owner}/{repo}/git/blobs")
def create_blob(hub: FakeHub, request: Request, owner: str, repo: str) -> Answer:
    found = find_repo(hub, request, owner, repo, "contents")
    git = _not_empty(hub, found)
    encoded = request.body.get("encoding") == "base64"
    sha = git.write("blob", _decode(request.body["content"]) if encoded else request.body["content"].encode())
    return Answer({"url": f"{hub.url}/repos/{owner}/{repo}/git/blobs/{sha}", "sha": sha}, 201)


@route("GET /repos/{owner}/{repo}/git/blobs/{sha}")
def get_blob(hub: FakeHub, request: Request, owner: str, repo: str, sha: str) -> Answer:
    data = _not_empty(hub, find_repo(hub, request, owner, repo)).read(sha, "blob")
    if data is None:
        raise HubError(404)
    url = f"{hub.url}/repos/{owner}/{repo}/git/blobs/{sha}"
    content = base64.encodebytes(data).decode()
    document = {"sha": sha, "node_id": f"B_{sha[:8]}", "size": len(data), "url": url, "content": content}
    return Answer({**document, "encoding": "base64"})


@route("POST /repos/{owner}/{repo}/git/trees")
def create_tree(hub: FakeHub, request: Request, owner: str, repo: str) -> Answer:
    found = find_repo(hub, request, owner, repo, "contents")
    git = _not_empty(hub, found)
    base = request.body.get("base_tree")
    files = git.files(base) if base else {}
    _need_workflows(request, [entry["path"] for entry in request.body["tree"]])
    for entry in request.body["tree"]:
        content, sha = entry.get("content"), entry.get("sha")
        if content is not None:
            sha = git.write("blob", content.encode())
        if not sha or git.read(sha, "blob") is None:
            raise HubError(422, f"tree.sha {sha} is not a valid blob")
        files[entry["path"]] = (entry["mode"], sha)
    return Answer(_tree(hub, found, git.write_tree(files)), 201)


@route("GET /repos/{owner}/{repo}/git/trees/{sha}")
def get_tree(hub: FakeHub, request: Request, owner: str, repo: str, sha: str) -> Answer:
    found = find_repo(hub, request, owner, repo)
    git = _not_empty(hub, found)
    commit = git.commit(_commit_of(git, found, sha))
    tree = commit["tree"] if commit else sha
    if git.read(tree, "tree") is None:
        raise HubError(404)
    return Answer(_tree(hub, found, tree, recursive="recursive" in request.query))


def _commit_of(git: Any, repo: dict[str, Any], ref: str) -> str:
    """Return the commit of a branch, a tag, HEAD, or the commit itself."""
    branch = repo["default_branch"] if ref == "HEAD" else ref
    return git.ref(f"refs/heads/{branch}") or git.ref(f"refs/tags/{ref}") or ref


def _tree(hub: FakeHub, repo: dict[str, Any], sha: str, *, recursive: bool = False) -> dict[str, Any]:
    base, git = f"{hub.url}/repos/{repo['owner']}/{repo['name']}/git", hub.git(repo)
    entries = []
    own = [(mode, name, entry) for mode, name, entry in git.entries(sha)]
    below = [(mode, name, entry) for name, (mode, entry) in git.files(sha).items() if "/" in name] if recursive else []
    for mode, name, entry in own + below:
        kind = "tree" if mode == "40000" else "blob"
        found = {"path": name, "mode": mode.zfill(6), "type": kind, "sha": entry, "url": f"{base}/{kind}s/{entry}"}
        if kind == "blob":
            found["size"] = len(git.read(entry, "blob") or b"")
        entries.append(found)
    return {"sha": sha, "url": f"{base}/trees/{sha}", "tree": entries, "truncated": False}


@route("POST /repos/{owner}/{repo}/git/commits")
def create_commit(hub: FakeHub, request: Request, owner: str, repo: str) -> Answer:
    found = find_repo(hub, request, owner, repo, "contents")
    git, body = _not_empty(hub, found), request.body
    if git.read(body["tree"], "tree") is None:
        raise HubError(422, "Tree SHA does not exist")
    author = _person(hub, request, body.get("author"))
    committer = _person(hub, request, body.get("committer") or body.get("author"))
    sha = git.write_commit(body["tree"], body.get("parents", []), body["message"], author, committer)
    return Answer(views.git_commit(hub, found, git.commit(sha) or {}), 201)


@route("GET /repos/{owner}/{repo}/git/commits/{sha}")
def get_commit(hub: FakeHub, request: Request, owner: str, repo: str, sha: str) -> Answer:
    found = find_repo(hub, request, owner, repo)
    commit = _not_empty(hub, found).commit(sha)
    if commit is None:
        raise HubError(404)
    return Answer(views.git_commit(hub, found, commit))


@route("GET /repos/{owner}/{repo}/commits")
def get_commits(hub: FakeHub, request: Request, owner: str, repo: str) -> Answer:
    found = find_repo(hub, request, owner, repo)
    _not_empty(hub, found)
    return paged(request, hub.head(f"{owner}/{repo}"), lambda c: views.commit(hub, found, c))


@route("GET /repos/{owner}/{repo}/git/ref/{ref+}")
def get_ref(hub: FakeHub, request: Request, owner: str, repo: str, ref: str) -> Answer:
    found = find_repo(hub, request, owner, repo)
    sha = _not_empty(hub, found).ref(f"refs/{ref}")
    if sha is None:
        raise HubError(404)
    return Answer(_ref(hub, found, f"refs/{ref}", sha))


@route("POST /repos/{owner}/{repo}/git/refs")
def create_ref(hub: FakeHub, request: Request, owner: str, repo: str) -> Answer:
    found = find_repo(hub, request, owner, repo, "contents")
    git = _not_empty(hub, found)
    ref, sha = request.body["ref"], request.body["sha"]
    if git.ref(ref):
        raise HubError(422, "Reference already exists")
    if git.commit(sha) is None:
        raise HubError(422, "Object does not exist")
    git.set_ref(ref, sha)
    return Answer(_ref(hub, found, ref, sha), 201)


@route("PATCH /repos/{owner}/{repo}/git/refs/{ref+}")
def move_ref(hub: FakeHub, request: Request, owner: str, repo: str, ref: str) -> Answer:
    found = find_repo(hub, request, owner, repo, "contents")
    git, sha = _not_empty(hub, found), request.body["sha"]
    old, force = git.ref(f"refs/{ref}"), request.body.get("force", False)
    if old is None:
        raise HubError(422, "Reference does not exist")
    if git.commit(sha) is None:
        raise HubError(422, "Object does not exist")
    forward = any(commit["sha"] == old for commit in git.history(sha))
    rules = found["protection"].get(ref.removeprefix("heads/"))
    if not forward and rules and not rules.get("allow_force_pushes"):
        raise HubError(422, "Cannot force-push to this branch")
    if not forward and not force:
        raise HubError(422, "Update is not a fast forward")
    git.set_ref(f"refs/{ref}", sha)
    return Answer(_ref(hub, found, f"refs/{ref}", sha))


def _ref(hub: FakeHub, repo: dict[str, Any], ref: str, sha: str) -> dict[str, Any]:
    base = f"{hub.url}/repos/{repo['owner']}/{repo['name']}/git"
    target = {"sha": sha, "type": "commit", "url": f"{base}/commits/{sha}"}
    return {"ref": ref, "node_id": f"REF_{sha[:8]}", "url": f"{base}/{ref}", "object": target}


def _not_empty(hub: FakeHub, repo: dict[str, Any]) -> Any:
    git = hub.git(repo)
    if git.empty:
        raise HubError(409, EMPTY)
    return git


def _need_workflows(request: Request, paths: list[str]) -> None:
    """Hide the repository from a token that may not write workflow files, as GitHub does."""
    if any(path.startswith(".github/workflows/") for path in paths) and "workflows" not in request.can:
        raise HubError(404)


def _person(hub: FakeHub, request: Request, given: dict[str, Any] | None) -> dict[str, Any]:
    return {"name": request.login, "email": f"{request.login}@example.org", "date": hub.now(), **(given or {})}


def _decode(text: str) -> bytes:
    try:
        return base64.b64decode(text)
    except binascii.Error:
        raise HubError(422, "content is not valid Base64") from None
