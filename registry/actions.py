"""Publishing through GitHub Actions: start the repository's release workflow on a complete draft, and wait for it.

The workflow (.github/workflows/model-release.yml) checks the draft on a clean machine, attests it and publishes it.
Here is only a watcher: it may be killed at any moment, the run goes on, and the next call finds it by its title. A run
that stops leaves the draft as it was.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from registry import output
from registry.errors import AccessError, MregError, NotFoundError, RegistryError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from registry.stores import Release, RepoInfo, Store
    from registry.stores.github import GitHubStore
    from registry.stores.github_actions import GitHubActions, Run, Trouble

By = Literal["auto", "actions", "direct"]
WORKFLOW = "release.yml"
CALLED = "/model-release.yml@"  # what makes a repository's workflow ours
FIRST_WAIT, LONGEST_WAIT, GROWTH = 3.0, 20.0, 1.4  # seconds between two looks at a run
LONGEST_RUN = 4 * 3600.0  # seconds; its jobs have limits of their own, a queue has none
LAG = (1.0, 2.0, 4.0, 8.0, 15.0)  # seconds until a list shows what has just happened
MOST_TOLD = 5  # troubles of a failed run
NO_ACTIONS = "a folder registry has no Actions"


@dataclass(frozen=True, kw_only=True)
class Way:
    """How the releases of a repository become public: by its workflow, or from this machine."""

    github: GitHubStore | None  # None: from this machine
    branch: str  # the default one, whose workflow runs
    by: By
    reason: str = ""  # why not by the workflow, where it would have been used


def find_way(store: Store, info: RepoInfo, tag: str, *, by: By) -> Way:
    """Find out who publishes; wait for a run that works on this tag already, so that nothing changes under its hands.

    Raises `MregError` where `by` is "actions" and the repository has no workflow to be started.
    """
    github = None if by == "direct" else _github(store)
    reason = _why_not(github, info.name) if github else "" if by == "direct" else NO_ACTIONS
    if by == "actions" and reason:
        raise _impossible(info.name, tag, reason)
    if github is None or reason:
        return Way(github=None, branch=info.default_branch, by=by, reason=reason)
    runs = github.actions(info.name)
    try:
        run = _running(runs.runs(WORKFLOW), tag)
    except (AccessError, NotFoundError):  # a token that may not read them: there is nothing to be adopted
        run = None
    if run:
        output.say(f"{info.name}: a run of the release workflow is working on {tag} already")
        run = _wait(github, runs, run, info.name)
        if run.conclusion != "success":
            output.warn(f"{info.name}: that run ended with {run.conclusion}: trying again")
    return Way(github=github, branch=info.default_branch, by=by)


def publish(store: Store, draft: Release, way: Way, *, latest: bool) -> Release:
    """Publish a complete draft through the workflow, or directly where that is asked for or is the only way.

    Returns the release, whose publication is still to be read back. Raises `MregError` where the workflow is asked for
    and cannot be started, or where it refuses the draft.
    """
    reason = way.reason
    if way.github:
        try:
            return publish_by_actions(way.github, draft, way.branch)
        except CannotStartError as error:
            reason = error.message
    if way.by == "actions":
        raise _impossible(draft.repo, draft.tag, reason)
    if reason and reason != NO_ACTIONS:
        output.say(f"{draft.repo}: publishing {draft.tag} from this machine: {reason}")
    with output.stage(f"publish {draft.repo}@{draft.tag}"):
        return store.publish(draft, latest=latest)


class CannotStartError(MregError):
    """The workflow is there, and this token or this repository cannot start it."""


def publish_by_actions(github: GitHubStore, release: Release, branch: str) -> Release:
    """Start the release workflow of a branch on a draft, wait for it, and return the release, now public.

    A run of the same tag that goes on already is waited for instead. Raises `CannotStartError` where the workflow
    cannot be started, and `MregError` with the finding where it stops.
    """
    runs = github.actions(release.repo)
    try:
        before = runs.runs(WORKFLOW)
        run = _running(before, release.tag) or _start(github, runs, release, branch, before)
    except (AccessError, NotFoundError) as error:
        raise CannotStartError(f"{error.message} ({error.hint})") from error
    run = _wait(github, runs, run, release.repo)
    if run.conclusion != "success":
        raise _stopped(runs, run, release)
    return replace(release, draft=False)


def _impossible(repo: str, tag: str, reason: str) -> MregError:
    return MregError(
        f"{repo}: cannot publish {tag} with Actions: {reason}",
        hint="publish from this machine: --publish-with direct",
    )


def _github(store: Store) -> GitHubStore | None:
    if not store.location.startswith("github:"):
        return None
    from registry.stores.github import GitHubStore

    return store if isinstance(store, GitHubStore) else None


def _why_not(github: GitHubStore, repo: str) -> str:
    """Return why the workflow cannot be used, "" where it can."""
    path = f".github/workflows/{WORKFLOW}"
    try:
        text = github.read_file(repo, path).decode("utf-8", "replace")
    except NotFoundError:
        return f"its default branch has no {path}"
    return "" if CALLED in text else f"{path} does not call mreg's model-release.yml"


def _title(tag: str) -> str:
    return f"release {tag}"  # `run-name` of the workflow that `mreg new` writes


def _running(runs: Iterable[Run], tag: str) -> Run | None:
    return next((run for run in runs if run.title == _title(tag) and not run.done), None)


def _start(github: GitHubStore, runs: GitHubActions, release: Release, branch: str, before: Iterable[Run]) -> Run:
    """Start the workflow; find its run by its title where GitHub does not tell the number or the answer is lost."""
    known = {run.id for run in before}
    lost: RegistryError | None = None
    number = ""
    try:
        number = runs.dispatch(WORKFLOW, branch, {"tag": release.tag})
    except RegistryError as error:
        lost = error
    if number:
        return runs.run(number)
    for seconds in (*LAG, None):
        found = [run for run in runs.runs(WORKFLOW) if run.id not in known and run.title == _title(release.tag)]
        if found:
            return found[0]
        if seconds is not None:
            github.sleep(seconds)
    if lost and "GitHub answers 4" in lost.message:  # refused, so nothing was started
        raise CannotStartError(lost.message) from lost
    raise RegistryError(
        f"{release.repo}: the release workflow was started for {release.tag}, but its run does not appear",
        hint="run the same command again: it finds the run, or starts another",
    ) from lost


def _wait(github: GitHubStore, runs: GitHubActions, run: Run, repo: str) -> Run:
    """Look at a run, at longer and longer intervals, until it is over; the user may stop waiting at any time."""
    output.say(f"{repo}: {run.url}")
    waited, seconds, told = 0.0, FIRST_WAIT, ""
    with output.stage(f"{run.title} on GitHub Actions"):
        while not run.done:
            if run.status != told:
                output.say(f"{run.title}: {run.status.replace('_', ' ')}")
                told = run.status
            if waited > LONGEST_RUN:
                raise RegistryError(
                    f"{repo}: {run.url} is not over after {waited / 3600:.0f} hours",
                    hint="run the same command again to go on waiting",
                )
            github.sleep(seconds)
            waited, seconds = waited + seconds, min(seconds * GROWTH, LONGEST_WAIT)
            run = runs.run(run)
    return run


def _stopped(runs: GitHubActions, run: Run, release: Release) -> MregError:
    """Say which finding stopped the run."""
    try:
        found = list(runs.troubles(run))
    except MregError as error:  # the run's page knows it
        output.warn(error.message)
        found = []
    for trouble in found[1:MOST_TOLD]:
        output.say(f"also: {_told(trouble)}")
    first = _told(found[0]) if found else run.conclusion
    return MregError(
        f"{release.repo}: the release workflow did not publish {release.tag}: {first}",
        hint=f"{run.url} has all of it; the draft stays: mend what it says, then run the same command again",
    )


def _told(trouble: Trouble) -> str:
    text = ": ".join(part for part in (trouble.path if trouble.path != ".github" else "", trouble.title) if part)
    said = ": ".join(part for part in (text, trouble.message) if part)
    step = f", step {trouble.step!r}" if trouble.step else ""
    return f"job {trouble.job!r}{step}" + (f": {said}" if said else "")
