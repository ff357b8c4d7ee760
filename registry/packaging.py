"""What `mreg package` fills in where the user said nothing, and the reference output, for `mreg release` as well."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from registry import output, smoke, workers
from registry.archive import build
from registry.demo_data import has_template
from registry.encoder import is_encoder
from registry.errors import MregError, NotFoundError
from registry.files import sha256
from registry.manifest import MANIFEST_NAME
from registry.model_toml import Repo, find_repo
from registry.release_plan import require_tag
from registry.runs import Run, latest_run, read_run
from registry.smoke_output import UnusableArchiveError
from registry.volumes import read_volume

if TYPE_CHECKING:
    from collections.abc import Callable

    from registry.archive import Package
    from registry.manifest import Manifest, Reference


def package(
    run_folder: Path | None,
    *,
    tag: str | None = None,
    out: Path | None = None,
    layout: str | None = None,
    variant: str | None = None,
    keep_optimizer: bool = False,
    half: bool = False,
    per_fold: bool | None = None,
    reference: bool = True,
    reference_image: Path | None = None,
) -> Package:
    """Package a run, by default the newest complete one of the repo that the current folder is in.

    None means: as the repo's model.toml says, and for the tag today's date. A run outside a repo needs `out`. With
    `reference` the archive is run on an image where that is possible, and the manifest says what it gave.
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
            per_fold=per_fold if per_fold is not None else bool(repo and repo.toml.release.per_fold),
            repo=repo,
            reference=reference_of(run, out, reference_image) if reference else None,
        )


def reference_of(
    run: Run, out: Path, image: Path | None = None, known: Manifest | None = None
) -> Callable[[Path], Reference | None] | None:
    """Return what runs an archive once it is made; None, with a word on it, where nothing here can run it.

    Every model has a reference but an encoder, which has no output. An archive that the manifest in `out` has, or
    `known`, which is published, is not run again. An image that the user named is an error where it cannot be used.
    """
    if is_encoder(run.path):
        return None
    make = None if known and image is None and not workers.installed() else _runner(out, image)
    if known is None:
        return make

    def keep(archive: Path) -> Reference | None:
        entry = known.model(archive.name)
        if entry is not None and known.sha256_of(archive.name) == sha256(archive):
            return entry.reference  # or none: a published manifest does not change
        return make(archive) if make else None

    return keep


def _runner(out: Path, image: Path | None) -> Callable[[Path], Reference] | None:
    if image is None and not workers.installed():
        output.say("no reference output: it takes torch and nnunetv2 (mreg[train])")
        return None
    workers.require_installed()
    if image is None and not has_template():
        output.say("no reference output: its image comes with nilearn (mreg[demo]), or name one: --reference-image")
        return None
    if image is not None:
        read_volume(image)

    def make(archive: Path) -> Reference:
        kept = smoke.kept_reference(archive, out / MANIFEST_NAME, image)
        if kept is not None:
            return kept
        try:
            with output.stage("reference output"):
                # The code of a run has run in its training, on this user's word.
                made = smoke.make_reference(archive, image=image, allow_code=True)
        except UnusableArchiveError as error:
            raise MregError(
                f"the archive does not run: {error.message}", hint=error.hint or "package without: --no-reference"
            ) from error
        if not made.voxels and made.probabilities is None:
            output.warn("the reference output is empty: name an image that shows what it segments: --reference-image")
        return made

    return make


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
