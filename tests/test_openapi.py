"""The GitHub of our tests answers, and our GitHub store asks, as GitHub's published description says."""

import base64
import json
import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests
from fakehub.actions import add_job, progress
from fixtures_stores import NAME
from jsonschema import Draft202012Validator

from registry import scaffold
from registry.errors import MregError

DESCRIPTION = json.loads((Path(__file__).parent / "openapi" / "github.json").read_bytes())
# Statuses that any route may answer with and that the description lists for a few only.
ANYWHERE = {"401": "basic-error", "403": "basic-error", "404": "basic-error", "409": "basic-error"}
ANYWHERE |= {"422": "validation-error-simple", "502": None, "307": "basic-error"}


def patterns():
    """Yield each route with the expression of its paths, those with fewer variables first."""
    for route in sorted(DESCRIPTION["routes"], key=lambda r: (r.count("{"), r)):
        method, path = route.split()
        expression = re.sub(r"\{(path|ref)\}", ".+", path)
        yield route, method, re.compile(re.sub(r"\{\w+\}", "[^/]+", expression))


def route_of(request):
    path = urlsplit(request.path).path
    return next(
        (r for r, method, expression in patterns() if method == request.method and expression.fullmatch(path)), None
    )


def problems(schema, value):
    validator = Draft202012Validator({"allOf": [schema], "components": DESCRIPTION["components"]})
    return [f"{'/'.join(map(str, e.absolute_path))}: {e.message[:200]}" for e in validator.iter_errors(value)]


def answer_schema(route, status):
    answers = DESCRIPTION["routes"][route]["answers"]
    if str(status) in answers:
        return answers[str(status)]
    name = ANYWHERE.get(str(status))
    return name and {"$ref": f"#/components/schemas/{name}"}


def check(requests_made):
    """Return the routes that were seen, and every deviation from the description."""
    seen, wrong = set(), []
    for request in requests_made:
        if request.server == "storage" or "/releases/download/" in request.path:
            continue
        route = route_of(request)
        if route is None:
            wrong.append(f"{request.method} {request.path}: not in the excerpt")
            continue
        seen.add((route, request.status))
        asked = DESCRIPTION["routes"][route]["request"]
        if asked and request.body is not None and request.status < 400:
            wrong += [f"request {route}: {p}" for p in problems(asked, request.body)]
        schema = answer_schema(route, request.status)
        if schema and request.answer is not None:
            wrong += [f"answer {route} {request.status}: {p}" for p in problems(schema, request.answer)]
    return seen, wrong


def whole_life(store, worktree, archive):
    """Do everything that a store can do."""
    store.create_repo(NAME, description="", topics=())
    store.create_repo(NAME, description="Cord", topics=("mri",))
    store.push_first_commit(NAME, worktree)
    store.push_first_commit(NAME, worktree)
    store.read_file(NAME, "README.md")
    dropped = store.create_draft(NAME, "r20260130", title="Dropped", notes="")
    store.delete_draft(dropped)
    draft = store.create_draft(NAME, "r20260131", title="First", notes="Notes")
    asset = store.upload(draft, archive)
    store.delete_asset(draft, asset)
    asset = store.upload(draft, archive)
    with store.open_asset(draft, asset) as stream:
        stream.read()
    store.set_notes(draft, "Other notes")
    public = store.publish(draft, latest=True)
    with store.open_asset(public, public.assets[0]) as stream:
        stream.read()
    list(store.repos())
    store.releases(NAME)


@pytest.fixture
def archive(tmp_path):
    (tmp_path / "model.zip").write_bytes(b"zip" * 1000)
    return tmp_path / "model.zip"


def test_requests_and_answers_of_a_whole_life_follow_githubs_description(hub, github, worktree, archive):
    whole_life(github, worktree, archive)
    seen, wrong = check(hub.requests)
    assert wrong == []
    assert len(seen) >= 25


def test_the_other_answers_follow_githubs_description_too(hub, github, worktree, archive):
    """Go through routes and errors that the store meets rarely, among them those of a user account."""
    from registry.stores.github import GitHubStore

    whole_life(github, worktree, archive)
    ada = GitHubStore("ada")
    ada.create_repo(NAME, description="", topics=())
    list(ada.repos())
    hub.requests.clear()
    repo = f"/repos/ivadomed/{NAME}"
    number = next(iter(hub.repo(NAME)["releases"]))
    asset = next(iter(hub.repo(NAME)["releases"][number]["assets"]))
    head = hub.head(NAME)[0]
    blob = hub.git(hub.repo(NAME)).files(head["tree"])["README.md"][1]
    gets = [
        "/rate_limit", "/user", "/users/ada", "/users/nobody", "/orgs/ivadomed/repos", f"{repo}/topics",
        f"{repo}/labels", f"{repo}/branches/main/protection", f"{repo}/contents/docs", f"{repo}/contents/nothing",
        f"{repo}/git/blobs/{blob}", f"{repo}/git/trees/{head['tree']}", f"{repo}/git/commits/{head['sha']}",
        f"{repo}/git/commits/{'0' * 40}", f"{repo}/git/ref/heads/main", f"{repo}/commits", f"{repo}/releases/latest",
        f"{repo}/releases/tags/r20260131", f"{repo}/releases/tags/nothing", f"{repo}/releases/{number}/assets",
        f"{repo}/releases/assets/{asset}", f"/repos/ada/{NAME}/commits", f"/repos/ada/{NAME}/git/trees/{'0' * 40}",
    ]  # fmt: skip
    posts = [
        ("PATCH", repo, {"description": "New"}),
        ("POST", "/orgs/ivadomed/repos", {"name": NAME}),
        ("POST", f"{repo}/labels", {"name": "data"}),
        ("POST", f"{repo}/git/refs", {"ref": "refs/heads/side", "sha": head["sha"]}),
        ("POST", f"{repo}/git/refs", {"ref": "refs/heads/side", "sha": head["sha"]}),
        ("PATCH", f"{repo}/git/refs/heads/side", {"sha": head["sha"]}),
        ("POST", f"{repo}/releases", {"tag_name": "r20260131"}),
        ("PUT", f"{repo}/contents/README.md", {"message": "m", "content": "aGk="}),
        ("PUT", f"{repo}/contents/NEW.md", {"message": "m", "content": "aGk="}),
        ("POST", f"/repos/ada/{NAME}/git/blobs", {"content": "x"}),
        ("DELETE", f"{repo}/releases/assets/1", None),
    ]
    headers = {"Authorization": f"Bearer {hub.token}"}
    with requests.Session() as session:
        for path in gets:
            session.get(hub.url + path, headers=headers)
        for method, path, body in posts:
            session.request(method, hub.url + path, json=body, headers=headers)
        session.get(hub.url + repo, headers={"Authorization": "Bearer wrong"})
        session.post(f"{hub.url}{repo}/releases", json={"tag_name": "x"})
    seen, wrong = check(hub.requests)
    assert wrong == []
    assert {status for _, status in seen} >= {200, 201, 401, 404, 409, 422}
    assert len(hub.requests) == len(gets) + len(posts) + 2


def test_workflows_their_runs_and_attestations_follow_githubs_description(hub, github, tmp_path):
    made = scaffold.create(NAME, tmp_path, store=github).repo
    hub.requests.clear()

    def fail(hub, repo, run):
        add_job(hub, run, "check", "failure", "Check", [("CODE001", "wrong", "plans.json", 3)])
        progress(hub, run, "completed", "failure")

    hub.runner = fail
    actions = github.actions(made.name)
    run = actions.run(actions.dispatch("release.yml", "main", {"tag": "r20260131"}))
    while not run.done:
        run = actions.run(run)
    assert [trouble.title for trouble in actions.troubles(actions.runs("release.yml")[0])] == ["CODE001"]
    hub.run_details = False
    actions.dispatch("release.yml", "main", {"tag": "r20260131"})
    statement = json.dumps({"subject": [{"name": "x", "digest": {"sha256": "0" * 64}}]}).encode()
    bundle = {"mediaType": "", "dsseEnvelope": {"payload": base64.b64encode(statement).decode()}}
    headers = {"Authorization": f"Bearer {hub.token}"}
    repo = f"{hub.url}/repos/ivadomed/{NAME}"
    requests.post(f"{repo}/attestations", json={"bundle": bundle}, headers=headers, timeout=5)
    requests.get(f"{repo}/attestations/sha256:{'0' * 64}", headers=headers, timeout=5)
    requests.get(f"{repo}/actions/workflows/release.yml", headers=headers, timeout=5)
    seen, wrong = check(hub.requests)
    assert wrong == []
    assert len({route for route, _ in seen}) == 8


def test_a_wrong_answer_would_be_noticed(hub, github, worktree, archive):
    github.create_repo(NAME, description="", topics=())
    with pytest.raises(MregError):
        github.repo("nothing")
    good = next(r for r in hub.requests if r.status == 201)
    del good.answer["clone_url"]
    good.body["private"] = "no"
    hub.requests[-1].path = "/unknown"
    _, wrong = check(hub.requests)
    assert len(wrong) == 3
