"""Workflows, dispatches, runs, their jobs and annotations, attestations.

`hub.runner(hub, repo, run)` is what a dispatch starts in a thread; without one a run stays queued. A runner changes the
run through `progress`, so that its ETag changes with it.
"""

from __future__ import annotations

import base64
import json
import threading
from typing import TYPE_CHECKING, Any

import yaml

from fakehub import views
from fakehub.routes import find_repo
from fakehub.server import Answer, HubError, Request, paged, route

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fakehub import FakeHub


def find_workflow(hub: FakeHub, repo: dict[str, Any], name: str) -> dict[Any, Any]:
    """Return a workflow of the default branch."""
    git = hub.git(repo)
    sha = git.ref(f"refs/heads/{repo['default_branch']}")
    files = git.files((git.commit(sha) or {})["tree"]) if sha else {}
    if f".github/workflows/{name}" not in files:
        raise HubError(404)
    return yaml.safe_load(git.read(files[f".github/workflows/{name}"][1], "blob"))


def add_run(hub: FakeHub, repo: dict[str, Any], name: str, inputs: dict[str, str]) -> dict[str, Any]:
    """Add a queued run."""
    workflow = find_workflow(hub, repo, name)
    title = str(workflow.get("run-name", workflow["name"]))
    for key, value in inputs.items():
        title = title.replace(f"${{{{ inputs.{key} }}}}", value)
    run = {
        "id": hub.next_id(), "workflow": name, "title": title, "inputs": inputs, "status": "queued",
        "conclusion": None, "created_at": hub.now(), "updated_at": hub.now(), "changes": 0, "jobs": [],
        "sha": hub.git(repo).ref(f"refs/heads/{repo['default_branch']}"),
    }  # fmt: skip
    repo.setdefault("runs", {})[str(run["id"])] = run
    return run


def add_job(
    hub: FakeHub, run: dict[str, Any], name: str, conclusion: str, step: str = "", annotations: Iterable[Any] = ()
) -> None:
    """Add a job that is over; an annotation is (title, message, path, line)."""
    run["jobs"].append({
        "id": hub.next_id(), "name": name, "conclusion": conclusion, "step": step, "annotations": list(annotations),
    })  # fmt: skip


def progress(hub: FakeHub, run: dict[str, Any], status: str, conclusion: str | None = None) -> None:
    """Let a run go on."""
    with hub.lock:
        run.update(status=status, conclusion=conclusion, updated_at=hub.now(), changes=run["changes"] + 1)
        hub.save()


def view_run(hub: FakeHub, repo: dict[str, Any], run: dict[str, Any]) -> dict[str, Any]:
    full = f"{repo['owner']}/{repo['name']}"
    url, place = f"{hub.url}/repos/{full}/actions/runs/{run['id']}", views.minimal_repo(hub, repo)
    return {
        "id": run["id"], "node_id": f"WFR_{run['id']}", "workflow_id": 1, "pull_requests": [], "head_commit": None,
        "jobs_url": f"{url}/jobs", "logs_url": f"{url}/logs", "artifacts_url": f"{url}/artifacts",
        "cancel_url": f"{url}/cancel", "rerun_url": f"{url}/rerun", "repository": place, "head_repository": place,
        "check_suite_url": f"{hub.url}/repos/{full}/check-suites/{run['id']}",
        "workflow_url": f"{hub.url}/repos/{full}/actions/workflows/1",
        "name": run["workflow"], "display_title": run["title"], "status": run["status"],
        "conclusion": run["conclusion"], "event": "workflow_dispatch", "head_branch": repo["default_branch"],
        "head_sha": run["sha"], "run_number": run["id"], "run_attempt": 1, "created_at": run["created_at"],
        "updated_at": run["updated_at"], "url": url,
        "html_url": f"https://github.com/{full}/actions/runs/{run['id']}",
        "path": f".github/workflows/{run['workflow']}",
    }  # fmt: skip


def view_job(hub: FakeHub, repo: dict[str, Any], run: dict[str, Any], job: dict[str, Any]) -> dict[str, Any]:
    full = f"{repo['owner']}/{repo['name']}"
    steps = [{"name": "Set up job", "status": "completed", "conclusion": "success", "number": 1}]
    if job["step"]:
        steps.append({"name": job["step"], "status": "completed", "conclusion": job["conclusion"], "number": 2})
    return {
        "id": job["id"], "run_id": run["id"], "name": job["name"], "status": "completed",
        "run_url": f"{hub.url}/repos/{full}/actions/runs/{run['id']}", "node_id": f"CR_{job['id']}",
        "head_sha": run["sha"], "url": f"{hub.url}/repos/{full}/actions/jobs/{job['id']}",
        "created_at": run["created_at"], "started_at": run["created_at"], "completed_at": run["updated_at"],
        "labels": ["ubuntu-24.04"], "runner_id": 1, "runner_name": "GitHub Actions 1", "runner_group_id": 1,
        "runner_group_name": "GitHub Actions", "workflow_name": run["workflow"], "head_branch": repo["default_branch"],
        "conclusion": job["conclusion"], "steps": steps,
        "check_run_url": f"{hub.url}/repos/{full}/check-runs/{job['id']}",
        "html_url": f"https://github.com/{full}/actions/runs/{run['id']}/job/{job['id']}",
    }  # fmt: skip


def find_run(repo: dict[str, Any], number: str) -> dict[str, Any]:
    if found := repo.get("runs", {}).get(number):
        return found
    raise HubError(404)


@route("GET /repos/{owner}/{repo}/actions/workflows/{name}")
def workflow(hub: FakeHub, request: Request, owner: str, repo: str, name: str) -> Answer:
    found = find_repo(hub, request, owner, repo)
    text = find_workflow(hub, found, name)
    place = f"{owner}/{repo}"
    return Answer({
        "id": 1, "node_id": "W_1", "name": text["name"], "path": f".github/workflows/{name}", "state": "active",
        "created_at": found["created_at"], "updated_at": found["created_at"],
        "url": f"{hub.url}/repos/{place}/actions/workflows/1",
        "html_url": f"https://github.com/{place}/blob/{found['default_branch']}/.github/workflows/{name}",
        "badge_url": f"https://github.com/{place}/workflows/{name}/badge.svg",
    })  # fmt: skip


@route("POST /repos/{owner}/{repo}/actions/workflows/{name}/dispatches")
def dispatch(hub: FakeHub, request: Request, owner: str, repo: str, name: str) -> Answer:
    found = find_repo(hub, request, owner, repo, "actions")
    triggers = find_workflow(hub, found, name)[True]  # YAML 1.1 reads `on` as true
    if "workflow_dispatch" not in triggers:
        raise HubError(422, "Workflow does not have 'workflow_dispatch' trigger")
    if request.body["ref"] != found["default_branch"]:
        raise HubError(422, f"No ref found for: {request.body['ref']}")
    details = request.body.get("return_run_details")
    if details and not hub.run_details:
        raise HubError(422, 'Invalid request. "return_run_details" is not a permitted key.')
    known = triggers["workflow_dispatch"]["inputs"]
    if set(request.body.get("inputs", {})) - set(known):
        raise HubError(422, "Unexpected inputs provided")
    run = add_run(hub, found, name, request.body.get("inputs", {}))
    if hub.runner:
        threading.Thread(target=hub.runner, args=(hub, found, run), daemon=True).start()
    if not details:
        return Answer(None, 204)
    seen = view_run(hub, found, run)
    return Answer({"workflow_run_id": run["id"], "run_url": seen["url"], "html_url": seen["html_url"]})


@route("GET /repos/{owner}/{repo}/actions/workflows/{name}/runs")
def workflow_runs(hub: FakeHub, request: Request, owner: str, repo: str, name: str) -> Answer:
    found = find_repo(hub, request, owner, repo)
    find_workflow(hub, found, name)
    runs = [r for r in found.get("runs", {}).values() if r["workflow"] == name][::-1]
    seen = [view_run(hub, found, run) for run in runs[: int(request.query.get("per_page", 30))]]
    return Answer({"total_count": len(runs), "workflow_runs": seen})


@route("GET /repos/{owner}/{repo}/actions/runs/{number}")
def one_run(hub: FakeHub, request: Request, owner: str, repo: str, number: str) -> Answer:
    found = find_repo(hub, request, owner, repo)
    return Answer(view_run(hub, found, find_run(found, number)))


@route("GET /repos/{owner}/{repo}/actions/runs/{number}/jobs")
def run_jobs(hub: FakeHub, request: Request, owner: str, repo: str, number: str) -> Answer:
    found = find_repo(hub, request, owner, repo)
    run = find_run(found, number)
    return Answer({"total_count": len(run["jobs"]), "jobs": [view_job(hub, found, run, job) for job in run["jobs"]]})


@route("GET /repos/{owner}/{repo}/check-runs/{number}/annotations")
def annotations(hub: FakeHub, request: Request, owner: str, repo: str, number: str) -> Answer:
    found = find_repo(hub, request, owner, repo)
    jobs = [job for run in found.get("runs", {}).values() for job in run["jobs"] if str(job["id"]) == number]
    if not jobs:
        raise HubError(404)

    def view(entry: tuple[str, str, str, int]) -> dict[str, Any]:
        title, message, path, line = entry
        return {
            "path": path or ".github", "start_line": line, "end_line": line, "start_column": None, "end_column": None,
            "annotation_level": "failure", "title": title, "message": message, "raw_details": None,
            "blob_href": f"https://github.com/{owner}/{repo}/blob/{number}/{path}",
        }  # fmt: skip

    return paged(request, jobs[0]["annotations"], view)


@route("POST /repos/{owner}/{repo}/attestations")
def attest(hub: FakeHub, request: Request, owner: str, repo: str) -> Answer:
    found = find_repo(hub, request, owner, repo, "attestations")
    entry = {"id": hub.next_id(), "bundle": request.body["bundle"]}
    found.setdefault("attestations", []).append(entry)
    return Answer({"id": entry["id"]}, 201)


@route("GET /repos/{owner}/{repo}/attestations/{digest}")
def attestations(hub: FakeHub, request: Request, owner: str, repo: str, digest: str) -> Answer:
    found = find_repo(hub, request, owner, repo)

    def speaks_of_it(entry: dict[str, Any]) -> bool:
        statement = json.loads(base64.b64decode(entry["bundle"]["dsseEnvelope"]["payload"]))
        return any(f"sha256:{subject['digest']['sha256']}" == digest for subject in statement["subject"])

    return Answer({"attestations": [e for e in found.get("attestations", []) if speaks_of_it(e)]})
