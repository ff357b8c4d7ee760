"""The JSON documents that GitHub answers with, made from the hub's state."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fakehub import FakeHub
    from fakehub.gitdata import GitRepo

_USER_LINKS = {
    "followers_url": "/followers", "following_url": "/following{/other_user}", "gists_url": "/gists{/gist_id}",
    "starred_url": "/starred{/owner}{/repo}", "subscriptions_url": "/subscriptions", "organizations_url": "/orgs",
    "repos_url": "/repos", "events_url": "/events{/privacy}", "received_events_url": "/received_events",
}  # fmt: skip
_REPO_LINKS = {
    "archive_url": "/{archive_format}{/ref}", "assignees_url": "/assignees{/user}", "blobs_url": "/git/blobs{/sha}",
    "branches_url": "/branches{/branch}", "collaborators_url": "/collaborators{/collaborator}",
    "comments_url": "/comments{/number}", "commits_url": "/commits{/sha}", "compare_url": "/compare/{base}...{head}",
    "contents_url": "/contents/{+path}", "contributors_url": "/contributors", "deployments_url": "/deployments",
    "downloads_url": "/downloads", "events_url": "/events", "forks_url": "/forks",
    "git_commits_url": "/git/commits{/sha}", "git_refs_url": "/git/refs{/sha}", "git_tags_url": "/git/tags{/sha}",
    "hooks_url": "/hooks", "issue_comment_url": "/issues/comments{/number}",
    "issue_events_url": "/issues/events{/number}", "issues_url": "/issues{/number}", "keys_url": "/keys{/key_id}",
    "labels_url": "/labels{/name}", "languages_url": "/languages", "merges_url": "/merges",
    "milestones_url": "/milestones{/number}", "notifications_url": "/notifications{?since,all,participating}",
    "pulls_url": "/pulls{/number}", "releases_url": "/releases{/id}", "stargazers_url": "/stargazers",
    "statuses_url": "/statuses/{sha}", "subscribers_url": "/subscribers", "subscription_url": "/subscription",
    "tags_url": "/tags", "teams_url": "/teams", "trees_url": "/git/trees{/sha}",
}  # fmt: skip
UNVERIFIED = {"verified": False, "reason": "unsigned", "signature": None, "payload": None, "verified_at": None}


def user(hub: FakeHub, login: str) -> dict[str, Any]:
    """A simple-user; the same for organisations."""
    base = f"{hub.url}/users/{login}"
    number = 1 + sum(login.encode())
    return {
        "login": login, "id": number, "node_id": f"U_{number}", "avatar_url": f"{hub.url}/avatars/{login}",
        "gravatar_id": "", "url": base, "html_url": f"{hub.url}/{login}",
        **{key: base + path for key, path in _USER_LINKS.items()},
        "type": hub.state["owners"].get(login, "User"), "user_view_type": "public", "site_admin": False,
    }  # fmt: skip


def account(hub: FakeHub, login: str) -> dict[str, Any]:
    """A public-user."""
    counts = dict.fromkeys(("public_repos", "public_gists", "followers", "following"), 0)
    texts = dict.fromkeys(("name", "company", "location", "email", "hireable", "bio"))
    dates = {"created_at": "2020-01-01T00:00:00Z", "updated_at": "2020-01-01T00:00:00Z"}
    return {**user(hub, login), **texts, "blog": "", **counts, **dates}


def minimal_repo(hub: FakeHub, repo: dict[str, Any]) -> dict[str, Any]:
    """A repository as in lists."""
    full_name = f"{repo['owner']}/{repo['name']}"
    base, html = f"{hub.url}/repos/{full_name}", f"{hub.url}/{full_name}"
    return {
        "id": repo["id"], "node_id": f"R_{repo['id']}", "name": repo["name"], "full_name": full_name,
        "owner": user(hub, repo["owner"]), "private": repo["private"], "html_url": html,
        "description": repo["description"], "fork": False, "url": base,
        **{key: base + path for key, path in _REPO_LINKS.items()},
        "clone_url": f"{html}.git", "git_url": f"git://127.0.0.1/{full_name}.git",
        "ssh_url": f"git@127.0.0.1:{full_name}.git", "svn_url": html, "homepage": None, "mirror_url": None,
        "language": None, "forks_count": 0, "stargazers_count": 0, "watchers_count": 0, "size": 0,
        "default_branch": repo["default_branch"], "open_issues_count": 0, "is_template": False,
        "topics": repo["topics"], "has_issues": True, "has_projects": True, "has_wiki": True, "has_pages": False,
        "has_downloads": True, "has_discussions": False, "archived": repo["archived"], "disabled": False,
        "visibility": "private" if repo["private"] else "public", "pushed_at": repo["created_at"],
        "created_at": repo["created_at"], "updated_at": repo["created_at"], "license": None, "forks": 0,
        "open_issues": 0, "watchers": 0,
    }  # fmt: skip


def full_repo(hub: FakeHub, repo: dict[str, Any], can: set[str]) -> dict[str, Any]:
    """A repository by itself."""
    push = "contents" in can
    permissions = {"admin": "administration" in can, "maintain": push, "push": push, "triage": push, "pull": True}
    return {**minimal_repo(hub, repo), "permissions": permissions, "network_count": 0, "subscribers_count": 0}


def label(hub: FakeHub, repo: dict[str, Any], name: str) -> dict[str, Any]:
    """A label."""
    color, description = repo["labels"][name]
    number = 1 + sum(name.encode())
    url = f"{hub.url}/repos/{repo['owner']}/{repo['name']}/labels/{name}"
    return {
        "id": number, "node_id": f"LA_{number}", "url": url, "name": name, "color": color, "default": False,
        "description": description,
    }  # fmt: skip


def asset(hub: FakeHub, repo: dict[str, Any], release: dict[str, Any], asset: dict[str, Any]) -> dict[str, Any]:
    """A release asset; a draft's lies under an address that nobody can guess."""
    place = f"{repo['owner']}/{repo['name']}/releases"
    tag = f"untagged-{release['secret']}" if release["draft"] else release["tag_name"]
    return {
        "url": f"{hub.url}/repos/{place}/assets/{asset['id']}", "id": asset["id"], "node_id": f"RA_{asset['id']}",
        "name": asset["name"], "label": asset["label"], "uploader": user(hub, asset["uploader"]),
        "content_type": asset["content_type"], "state": asset["state"], "size": asset["size"],
        "digest": asset["digest"], "download_count": 0, "created_at": asset["created_at"],
        "updated_at": asset["created_at"], "browser_download_url": f"{hub.url}/{place}/download/{tag}/{asset['name']}",
    }  # fmt: skip


def release(hub: FakeHub, repo: dict[str, Any], release: dict[str, Any]) -> dict[str, Any]:
    """A release."""
    full_name = f"{repo['owner']}/{repo['name']}"
    url = f"{hub.url}/repos/{full_name}/releases/{release['id']}"
    tag = f"untagged-{release['secret']}" if release["draft"] else release["tag_name"]
    ball = None if release["draft"] else f"{hub.url}/repos/{full_name}/{{}}/{tag}"
    return {
        "url": url, "assets_url": f"{url}/assets", "upload_url": f"{url}/assets{{?name,label}}",
        "html_url": f"{hub.url}/{full_name}/releases/tag/{tag}", "id": release["id"],
        "author": user(hub, release["author"]), "node_id": f"RE_{release['id']}", "tag_name": release["tag_name"],
        "target_commitish": release["target_commitish"], "name": release["name"], "draft": release["draft"],
        "immutable": release["immutable"], "prerelease": release["prerelease"], "created_at": release["created_at"],
        "updated_at": release["created_at"], "published_at": release["published_at"],
        "assets": [asset(hub, repo, release, a) for a in hub.assets(release)],
        "tarball_url": ball and ball.format("tarball"), "zipball_url": ball and ball.format("zipball"),
        "body": release["body"],
    }  # fmt: skip


def release_node(hub: FakeHub, repo: dict[str, Any], release_: dict[str, Any]) -> dict[str, Any]:
    """A release as GraphQL names its fields."""
    view = release(hub, repo, release_)
    assets = [{"name": a["name"], "size": a["size"], "downloadUrl": a["browser_download_url"]} for a in view["assets"]]
    return {
        "databaseId": view["id"], "tagName": view["tag_name"], "name": view["name"], "description": view["body"],
        "isDraft": view["draft"], "publishedAt": view["published_at"], "immutable": view["immutable"],
        "url": view["html_url"], "releaseAssets": {"nodes": assets},
    }  # fmt: skip


def git_commit(hub: FakeHub, repo: dict[str, Any], commit: dict[str, Any]) -> dict[str, Any]:
    """A commit of the git database."""
    place = f"{repo['owner']}/{repo['name']}"
    base = f"{hub.url}/repos/{place}/git"
    parents = [
        {"sha": p, "url": f"{base}/commits/{p}", "html_url": f"{hub.url}/{place}/commit/{p}"} for p in commit["parents"]
    ]
    return {
        "sha": commit["sha"], "node_id": f"C_{commit['sha'][:8]}", "url": f"{base}/commits/{commit['sha']}",
        "html_url": f"{hub.url}/{place}/commit/{commit['sha']}", "author": commit["author"],
        "committer": commit["committer"], "tree": {"sha": commit["tree"], "url": f"{base}/trees/{commit['tree']}"},
        "message": commit["message"], "parents": parents, "verification": UNVERIFIED,
    }  # fmt: skip


def commit(hub: FakeHub, repo: dict[str, Any], commit: dict[str, Any]) -> dict[str, Any]:
    """A commit of the history."""
    place = f"{repo['owner']}/{repo['name']}"
    base = f"{hub.url}/repos/{place}"
    inner = git_commit(hub, repo, commit)
    return {
        "sha": commit["sha"], "node_id": inner["node_id"], "url": f"{base}/commits/{commit['sha']}",
        "html_url": inner["html_url"], "comments_url": f"{base}/commits/{commit['sha']}/comments",
        "author": None, "committer": None, "parents": inner["parents"],
        "commit": {
            **{key: inner[key] for key in ("author", "committer", "tree", "message", "verification", "url")},
            "comment_count": 0,
        },
    }  # fmt: skip


def protection(url: str, wanted: dict[str, Any]) -> dict[str, Any]:
    """A branch's protection, as GitHub gives it back after a PUT."""
    found: dict[str, Any] = {"url": url}
    for key in ("allow_force_pushes", "allow_deletions", "required_linear_history", "enforce_admins"):
        found[key] = {"enabled": bool(wanted.get(key))}
    found["enforce_admins"]["url"] = f"{url}/enforce_admins"
    if reviews := wanted.get("required_pull_request_reviews"):
        keys = ("dismiss_stale_reviews", "require_code_owner_reviews")
        found["required_pull_request_reviews"] = {
            "url": f"{url}/required_pull_request_reviews",
            "required_approving_review_count": reviews.get("required_approving_review_count", 1),
            **{key: reviews.get(key, False) for key in keys},
        }
    return found


def content_file(hub: FakeHub, repo: dict[str, Any], git: GitRepo, path: str, sha: str) -> dict[str, Any]:
    """A file of the contents API; above 1 MB without its content."""
    place = f"{repo['owner']}/{repo['name']}"
    url, data = f"{hub.url}/repos/{place}/contents/{path}", git.read(sha, "blob") or b""
    git_url, html_url = f"{hub.url}/repos/{place}/git/blobs/{sha}", f"{hub.url}/{place}/blob/main/{path}"
    inline = len(data) <= 1_000_000
    return {
        "type": "file", "encoding": "base64" if inline else "none", "size": len(data), "name": path.rpartition("/")[2],
        "path": path, "content": base64.encodebytes(data).decode() if inline else "", "sha": sha, "url": url,
        "git_url": git_url, "html_url": html_url, "download_url": f"{hub.url}/raw/{place}/{path}",
        "_links": {"self": url, "git": git_url, "html": html_url},
    }  # fmt: skip
