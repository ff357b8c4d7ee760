"""`mreg release`: from a run to a published release, in steps that can all be done again.

check → package → draft → upload → compare digests → publish → read back. The only step that anybody sees is the
publication, and it comes when all bytes lie in the registry; whatever ends the program before leaves a draft, which the
next call finds, mends and publishes.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from datetime import date
from typing import TYPE_CHECKING, Any

from registry import actions, output, release_notes
from registry.checks import check
from registry.errors import ConflictError, IntegrityError, MregError
from registry.model_toml import find_repo
from registry.published import read_manifest
from registry.read_back import publish_or_yield, read_back, reread, with_digest, with_digests
from registry.release_files import Options, packed
from registry.release_plan import make_plan, previous, require_tag
from registry.runs import is_run, read_run
from registry.stores import Asset, open_store

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from registry.actions import By
    from registry.findings import Report
    from registry.manifest import Manifest
    from registry.model_toml import Repo
    from registry.release_files import Files
    from registry.release_plan import LocalAsset, Plan
    from registry.stores import Release, RepoInfo, Store

AT_ONCE = 3  # uploads
TRIES = 3  # of an upload that arrives with other bytes


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a release came to."""

    tag: str
    url: str  # its page; "" in a dry run
    assets: tuple[Asset, ...]
    published: bool
    changed: bool  # whether the registry was written to
    plan: tuple[str, ...] = field(default=())  # what was to be done

    def as_json(self) -> dict[str, Any]:
        """Return the document of `mreg release --json`."""
        assets = [{"name": a.name, "size": a.size, "sha256": a.sha256, "url": a.url} for a in self.assets]
        document = {
            "tag": self.tag,
            "url": self.url,
            "assets": assets,
            "published": self.published,
            "changed": self.changed,
        }
        return document if self.url else {**document, "plan": list(self.plan)}


def release_path(
    path: Path,
    registry: str | None = None,
    *,
    run: Path | None = None,
    tag: str = "",
    layout: str = "",
    half: bool = False,
    per_fold: bool | None = None,
    reference: bool = True,
    dry_run: bool = False,
    draft: bool = False,
    by: By = "auto",
    sign: Path | None = None,
) -> Outcome:
    """Release the repo that holds `path`, or the run that `path` is, to the registry of that location."""
    repo = find_repo(path)
    chosen = run if run is None or run.exists() else repo.runs / run
    if chosen is None and is_run(path):
        chosen = path
    options = Options(
        run=read_run(chosen) if chosen else None,
        layout=layout,
        half=half,
        per_fold=per_fold,
        reference=reference,
        sign=sign,
    )
    return release(repo, open_store(registry), tag=tag, options=options, dry_run=dry_run, draft=draft, by=by)


def release(
    repo: Repo,
    store: Store,
    *,
    tag: str = "",
    options: Options | None = None,
    dry_run: bool = False,
    draft: bool = False,
    by: By = "direct",
) -> Outcome:
    """Publish a run's archive, its manifest and their checksums as a release of the model.

    The tag is today's date by default. Called again it continues, and does nothing when all is done. With `draft` it
    stops before the publication; with `dry_run` it writes nothing, here or in the registry.

    Raises `MregError` where the checks find errors, `ConflictError` where the tag is published with other bytes,
    `IntegrityError` where the registry has other bytes than were sent, `AccessError`.
    """
    tag = tag or f"r{date.today():%Y%m%d}"  # noqa: DTZ011 - the day that the calendar on the wall shows
    require_tag(tag, repo.toml.release.tags)
    info = store.repo(repo.name)
    if info.archived:
        raise ConflictError(f"{repo.name}: archived in {store.location}", hint="un-archive it first")
    _require_ok(check(repo.root))
    way = None if dry_run or draft else actions.find_way(store, info, tag, by=by)
    releases = [with_digests(store, r) if r.tag == tag else r for r in store.releases(repo.name)]
    public = next((r for r in releases if r.tag == tag and not r.draft), None)

    def known() -> Manifest | None:
        return read_manifest(store, public) if public else None

    # Under a tag that is public a new package is only to be compared: what was released stays in dist.
    with packed(repo, tag, options or Options(), keep=not (dry_run or public), known=known) as files:
        wanted = files.all
        before = previous(repo.name, tag, releases) or None
        for local in files.archives:
            _require_ok(check(local.path, against=None if public else before, registry=store.location))
        plan = make_plan(tag, info.commit, wanted, releases)
        _tell_twins(files.archives, tag, releases)
        lines = plan.lines(stop_at_draft=draft)
        if plan.published:
            output.say(lines[0])
            return _outcome(plan.published, wanted, changed=False, plan=lines)
        if dry_run:
            return Outcome(
                tag=tag, url="", assets=_planned(info, tag, wanted), published=False, changed=False, plan=lines
            )
        made, changed = _fill_draft(repo, store, info, plan, files)
        if way is None:
            return _outcome(made, wanted, changed=changed, plan=lines)
        publish_or_yield(store, made, lambda: actions.publish(store, made, way, latest=plan.latest))
        return _outcome(read_back(store, made, wanted), wanted, changed=True, plan=lines)


def _fill_draft(repo: Repo, store: Store, info: RepoInfo, plan: Plan, files: Files) -> tuple[Release, bool]:
    """Make a draft ready for publication; return it as the registry has it, and whether anything changed."""
    before = plan.draft or next(iter((*plan.strangers, *plan.surplus)), None)
    notes = release_notes.write(
        before.notes if before else "",
        files,
        address=lambda name: _address(info, plan.tag, name),
        task=repo.toml.sct.task,
        location=store.location,
    )
    changed = bool(plan.surplus or plan.broken or plan.missing or plan.draft is None)
    draft = plan.draft or store.create_draft(repo.name, plan.tag, title=plan.tag, notes=notes, commit=info.commit)
    if _lines(draft.notes) != _lines(notes):
        store.set_notes(draft, notes)
        changed = True
    for strange in plan.strangers:
        output.warn(f"another draft of {plan.tag} (id {strange.id}) is not mreg's: left as it is")
    for surplus in plan.surplus:  # only now, since what people wrote in one of them has been taken over
        output.say(f"deleting another draft of {plan.tag} (id {surplus.id})")
        store.delete_draft(surplus)
    for asset in plan.broken:
        output.say(f"deleting {asset.name} from the draft: broken, outdated or not ours")
        store.delete_asset(draft, asset)
    _upload_all(store, draft, plan.missing)
    return reread(store, draft, files.all), changed


def _upload_all(store: Store, draft: Release, missing: Sequence[LocalAsset]) -> None:
    """Upload several files at once; where one cannot be sent, or the user stops, the others stop too."""
    if not missing:
        return
    stop = threading.Event()
    title = f"upload {missing[0].name}" if len(missing) == 1 else f"upload {len(missing)} files"
    with output.byte_progress(title, sum(local.size for local in missing)) as progress:

        def report(count: int) -> None:
            if stop.is_set() and count > 0:
                raise _StoppedError
            progress(count)

        with ThreadPoolExecutor(AT_ONCE) as pool:
            uploads = [pool.submit(_upload, store, draft, local, report) for local in missing]
            try:
                for upload in as_completed(uploads):
                    upload.result()
            except BaseException:
                stop.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise


class _StoppedError(BaseException):
    """Ends the uploads beside one that failed; nothing on the way may take it for a fault of the network."""


def _upload(store: Store, draft: Release, local: LocalAsset, progress: Callable[[int], None]) -> None:
    """Upload a file and believe only the digest that the registry computed itself."""
    for _ in range(TRIES):
        asset = store.upload(draft, local.path, progress, digest=local.sha256)
        if local.equals(with_digest(store, draft, asset)):
            return
        progress(-local.size)
        output.warn(f"{local.name} arrived with other bytes, sending it again")
        store.delete_asset(draft, asset)
    raise IntegrityError(
        f"{draft.repo}: {local.name} arrived {TRIES} times with other bytes than were sent",
        hint="nothing was published; try again over another network",
    )


def _require_ok(report: Report) -> None:
    """Tell errors and warnings, and raise where there is an error."""
    told = [finding for finding in report.findings if finding.level != "note"]
    for finding in told:
        place = f"{finding.path}: " if finding.path else ""
        output.say(f"  {finding.level} {finding.code} {place}{finding.message}")
    errors = sum(finding.level == "error" for finding in told)
    if errors:
        raise MregError(
            f"{report.target}: {errors} error{'s' * (errors > 1)}, nothing was released",
            hint=f"mend what stands above; all of it: mreg check {report.target}",
        )


def _tell_twins(archives: Sequence[LocalAsset], tag: str, releases: Sequence[Release]) -> None:
    """Say where the same archives are published already: SCT would install them as a new model."""
    digests = {local.sha256 for local in archives}
    public = [r for r in releases if not r.draft and r.tag != tag]
    twins = [r.tag for r in public if digests & {asset.sha256 for asset in r.assets}]
    if twins:
        output.warn(f"{tag}: the same archive is published as {', '.join(twins)}")


def _outcome(release: Release, wanted: Sequence[LocalAsset], *, changed: bool, plan: tuple[str, ...]) -> Outcome:
    assets = tuple(asset for local in wanted if (asset := release.asset(local.name)))
    return Outcome(
        tag=release.tag, url=release.url, assets=assets, published=not release.draft, changed=changed, plan=plan
    )


def _planned(info: RepoInfo, tag: str, wanted: Sequence[LocalAsset]) -> tuple[Asset, ...]:
    return tuple(
        Asset(id="", name=f.name, size=f.size, sha256=f.sha256, url=_address(info, tag, f.name)) for f in wanted
    )


def _address(info: RepoInfo, tag: str, name: str) -> str:
    """Return the public address that an asset will have, "" in a folder registry."""
    return f"{info.url}/releases/download/{tag}/{name}" if info.url.startswith("http") else ""


def _lines(text: str) -> list[str]:
    """Compare notes as people read them: GitHub's form sends Windows line ends."""
    return text.strip().splitlines()
