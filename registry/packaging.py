"""What `mreg package` fills in: the run, the tag and the folder that the user did not name."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from registry import output
from registry.archive import build
from registry.errors import MregError, NotFoundError
from registry.model_toml import Repo, find_repo
from registry.release_plan import require_tag
from registry.runs import Run, latest_run, read_run

if TYPE_CHECKING:
    from registry.archive import Package


def package(
    run_folder: Path | None,
    *,
    tag: str | None = None,
    out: Path | None = None,
    layout: str | None = None,
    variant: str | None = None,
    keep_optimizer: bool = False,
    half: bool = False,
) -> Package:
    """Package a run, by default the newest complete one of the repo that the current folder is in.

    None means: as the repo's model.toml says, and for the tag today's date. A run outside a repo needs `out`.
    """
    run, repo = _find(run_folder)
    policy = repo.toml.release.tags if repo else "date"
    tag = tag or _default_tag(policy)
    require_tag(tag, policy)
    if out is None:
        if repo is None:
            raise MregError(f"{run.path}: lies in no model's repo, so there is no dist folder", hint="name one: -o DIR")
        out = repo.dist / tag
    with output.stage(f"package {run.path.name}"):
        return build(
            run,
            repo.name if repo else run.config["repo"],
            tag,
            out,
            layout=layout or (repo.toml.release.layout if repo else "root"),
            variant=variant if variant is not None else (repo.toml.release.variant if repo else ""),
            keep_optimizer=keep_optimizer,
            half=half,
            repo=repo,
        )


def _find(run_folder: Path | None) -> tuple[Run, Repo | None]:
    if run_folder is None:
        repo = find_repo(Path.cwd())
        return latest_run(repo.runs), repo
    run = read_run(run_folder)
    try:
        return run, find_repo(run_folder)
    except NotFoundError:
        return run, None


def _default_tag(policy: str) -> str:
    if policy != "date":
        raise MregError("model.toml says that releases have versions: name this one's", hint="for example --tag v1.0.0")
    return f"r{datetime.now().astimezone():%Y%m%d}"
