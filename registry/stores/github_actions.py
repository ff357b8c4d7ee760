"""GitHub Actions of one repository: start a workflow, follow its run, read why it stopped."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from registry.errors import MregError, NotFoundError, RegistryError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from registry.stores.github_api import GitHubApi

Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run of a workflow."""

    id: str
    title: str  # what `run-name` makes of its inputs
    status: str  # queued, in_progress, completed, and a few more that are not the end either
    conclusion: str  # "" until it is completed, then success, failure, cancelled, …
    url: str
    etag: str = field(default="", compare=False)

    @property
    def done(self) -> bool:
        """Whether nothing more will happen."""
        return self.status == "completed"


@dataclass(frozen=True, kw_only=True)
class Trouble:
    """What an annotation of a failed job says; `message` is "" where the job left none."""

    job: str
    step: str  # the first step that failed
    title: str = ""
    message: str = ""
    path: str = ""


class GitHubActions:
    """The workflows of one repository."""

    def __init__(self, api: GitHubApi, org: str, repo: str) -> None:
        self._api = api
        self._where = f"{org}/{repo}"
        self._path = f"/repos/{org}/{repo}"

    def dispatch(self, workflow: str, branch: str, inputs: dict[str, str]) -> str:
        """Start a workflow; return the run's number, "" where the server does not tell it.

        Raises `AccessError` where the token may not, `NotFoundError` where the branch has no such workflow.
        """
        path = f"{self._path}/actions/workflows/{quote(workflow)}/dispatches"
        body = {"ref": branch, "inputs": inputs}
        what = f"start its workflow {workflow}"
        try:
            # Sent once: a start whose answer was lost is found by its title, not repeated.
            answer = self._api.once("POST", path, {**body, "return_run_details": True}, where=self._where, what=what)
        except RegistryError as error:
            if "return_run_details" not in error.message:  # an older GitHub Enterprise does not know the word
                raise
            answer = self._api.once("POST", path, body, where=self._where, what=what)
        return str(answer.get("workflow_run_id") or "") if isinstance(answer, dict) else ""

    def runs(self, workflow: str) -> list[Run]:
        """Return the newest runs of a workflow that somebody started, newest first."""
        document = self._read(f"actions/workflows/{quote(workflow)}/runs?event=workflow_dispatch&per_page=30")
        return [_run(entry) for entry in document["workflow_runs"]]

    def run(self, known: Run | str) -> Run:
        """Return a run as it is now; asking again about one that has not changed costs nothing of the rate limit."""
        number, etag = (known, "") if isinstance(known, str) else (known.id, known.etag)
        path = f"{self._path}/actions/runs/{number}"
        tag, document = self._api.conditional(path, etag, where=self._where, what="read the run of its workflow")
        return known if document is None and isinstance(known, Run) else _run(document, tag)

    def troubles(self, run: Run) -> Iterator[Trouble]:
        """Yield why a run failed: the annotations of its failed jobs, or the step that failed where there are none."""
        document = self._read(f"actions/runs/{run.id}/jobs?per_page=100")
        for job in document["jobs"]:
            if job["conclusion"] not in ("failure", "timed_out", "startup_failure"):
                continue
            steps = [step["name"] for step in job.get("steps") or [] if step["conclusion"] == "failure"]
            place = {"job": job["name"], "step": steps[0] if steps else ""}
            found = list(self._annotations(job))
            for entry in found:
                yield Trouble(
                    **place, title=entry["title"] or "", message=entry["message"] or "", path=entry["path"] or ""
                )
            if not found:
                yield Trouble(**place)

    def _annotations(self, job: Json) -> Iterator[Json]:
        """Yield the errors that a job has told; GitHub's own "exit code 1" says nothing and comes last."""
        number = re.search(r"/check-runs/(\d+)", job.get("check_run_url") or "")
        path = f"{self._path}/check-runs/{number[1] if number else job['id']}/annotations"
        try:
            entries = list(self._api.pages(path, where=self._where, what="read the run's annotations"))
        except MregError:  # Checks: read is a permission of its own
            return
        failures = [entry for entry in entries if entry["annotation_level"] == "failure"]
        telling = [entry for entry in failures if "exit code" not in (entry["message"] or "")]
        yield from telling or failures

    def _read(self, path: str) -> Json:
        document: Json = self._api.call("GET", f"{self._path}/{path}", where=self._where, what="read its workflow runs")
        return document


def _run(document: Json | None, etag: str = "") -> Run:
    if document is None:
        raise NotFoundError("the run of the workflow has gone")
    return Run(
        id=str(document["id"]),
        title=document.get("display_title") or document.get("name") or "",
        status=document["status"] or "",
        conclusion=document["conclusion"] or "",
        url=document["html_url"],
        etag=etag,
    )
