"""From what a person names to a snapshot: a release's manifest alone, an archive, a run, a repo."""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from registry import archive_members, model_toml, partial, published, refs, runs, snapshots
from registry.checks import remote, truth
from registry.checks.archive import Archive
from registry.checks.model_files import ModelFiles
from registry.checks.repo import RepoFiles
from registry.errors import MregError, NotFoundError
from registry.files import read_object, sha256
from registry.manifest import MANIFEST_NAME
from registry.manifest import read as read_manifest
from registry.release_facts import metrics_of
from registry.snapshots import ModelFacts, Snapshot
from registry.stores import open_store
from registry.tree import DiskTree, ZipTree

if TYPE_CHECKING:
    from collections.abc import Collection

    from registry.manifest import Metrics
    from registry.stores import Release, Store
    from registry.tree import Tree


def read(text: str, registry: str | None = None) -> Snapshot:
    """Read what a ref names: NAME, NAME@TAG, ORG/REPO[@BRANCH], an address, or the path of an archive, run or repo.

    Of a release only the manifest is read, where it has one; else, as at an address, what is small in its archives.
    Raises `NotFoundError` and `MregError` as `refs.parse` and the registry do.
    """
    named = remote.REPOSITORY.fullmatch(text)
    if named and not Path(text).exists() and not Path(text).parent.exists():
        from registry.remote_tree import RemoteTree

        tree = RemoteTree(open_store(f"github:{named[1]}"), named[2], named[3] or "")
        return of_repo(RepoFiles(tree, named[2]), text)
    ref = refs.parse(text)
    if isinstance(ref, refs.UrlRef):
        return _of_address(ref)
    if isinstance(ref, refs.FileRef):
        return of_path(ref.path)
    store = open_store(registry)
    return of_release(store, published.resolve(ref, store))


def of_release(store: Store, release: Release) -> Snapshot:
    """Read a published release: its manifest, or what is small in its archives where it has none."""
    title = f"{release.repo}@{release.tag}"
    manifest = published.read_manifest(store, release)
    if manifest is not None:
        return snapshots.of_manifest(manifest, title)
    return Snapshot(title=title, name=release.repo, tag=release.tag, models=_archives(store, release))


def with_networks(snapshot: Snapshot, registry: str | None = None) -> Snapshot:
    """Read also the plans in the archives of a release, of which only the manifest was read so far."""
    if all(model.network is not None for model in snapshot.models) or "@" not in snapshot.title:
        return snapshot
    store = open_store(registry)
    release = published.find_published(
        refs.RepoRef(snapshot.name, snapshot.tag), store.releases(snapshot.name), store.location
    )
    read_now = {model.asset: model.network for model in _archives(store, release)}
    models = [replace(m, network=m.network or read_now.get(m.asset)) for m in snapshot.models]
    return replace(snapshot, models=tuple(models))


def of_path(path: Path) -> Snapshot:
    """Read an archive, a run, a trainer folder or a repo on this machine."""
    if path.is_file():
        return _of_file(path)
    if (path / model_toml.FILE_NAME).is_file():
        return of_repo(RepoFiles(DiskTree(path, skip=("data", "runs", "dist")), path.name, path), str(path))
    if (path / "config.json").is_file():
        run = runs.read_run(path)
        return Snapshot(title=str(path), name=str(run.config["repo"]), models=(_of_run(run),))
    if (path / "plans.json").is_file():
        tree = DiskTree(path)
        files = ModelFiles(tree, "", path.name, released=True)
        finals = [file for file in tree.files() if file.endswith(f"/{snapshots.FINAL}")]
        return Snapshot(title=str(path), models=(snapshots.of_files(files, weights=finals),))
    raise MregError(
        f"{path}: neither an archive, a run (config.json), a trainer folder (plans.json) nor a repo (model.toml)",
        hint="compare releases: mreg diff NAME@TAG NAME@TAG",
    )


def with_siblings(snapshot: Snapshot, target: str | Path | Tree) -> Snapshot:
    """Add what the manifest beside an archive says of the other archives of its release."""
    beside = Path(target).with_name(MANIFEST_NAME) if isinstance(target, str | Path) and Path(target).name else None
    if beside is None or not Path(str(target)).is_file() or not beside.is_file():
        return snapshot
    manifest, own = read_manifest(beside), {model.asset for model in snapshot.models}
    if not own <= set(manifest.archives):
        return snapshot
    others = [model for model in snapshots.of_manifest(manifest, "").models if model.asset not in own]
    return replace(snapshot, models=(*snapshot.models, *others))


def of_repo(files: RepoFiles, title: str) -> Snapshot:
    """Read a repo: its newest complete run, with what its dataset.json says, which the next release has to keep."""
    toml = files.toml
    if isinstance(toml, MregError):
        raise toml
    facts, run = snapshots.of_contract(files.tree), None
    if files.root is not None:
        try:
            run = runs.latest_run(model_toml.Repo(files.root, toml).runs)
            facts = snapshots.filled(facts, replace(_of_run(run), places={}))
        except NotFoundError:
            pass  # nothing is trained yet
    facts = replace(facts, crop=_crop(run, files.root, cropped=toml.sct.cropped_image))
    facts = replace(facts, variant=toml.release.variant, layout=toml.release.layout)
    return Snapshot(title=title, name=toml.model.name, licence=toml.model.licence, models=(facts,))


def of_tree(tree: Tree) -> Snapshot:
    """Read a repo that is not on this machine."""
    return of_repo(RepoFiles(tree, tree.name), tree.name)


def _of_run(run: runs.Run) -> ModelFacts:
    """Return what a run would be as a release; its weights change when they are packed, so they have no digest."""
    folder = run.trainer_folder
    facts = snapshots.of_files(ModelFiles(DiskTree(run.path), "", folder, released=False))
    folds = tuple(sorted(fold.name.removeprefix("fold_") for fold in run.finished_folds))
    plans = hashlib.sha256(archive_members.packed_plans(run)).hexdigest()
    return replace(facts, folds=folds, metrics=_metrics(run.path), plans_sha256=plans, weights=None, dtype=None)


def _crop(run: runs.Run | None, root: Path | None, *, cropped: bool) -> str | None:
    """Return the digest of the margins that the next archive would have, "" for none, None where nobody knows."""
    if root is None:
        return None if cropped else ""
    try:
        if run is not None:
            said = archive_members.crop_metadata_of(run, root, cropped=cropped)
        else:
            said = archive_members.crop_metadata(root) if cropped else None
        return hashlib.sha256(said).hexdigest() if said is not None else ""
    except MregError:
        return None  # packing says why


def _metrics(run: Path) -> Metrics | None:
    path = run / "evaluation.json"
    try:
        return metrics_of(read_object(path))
    except (KeyError, TypeError, ValueError, AttributeError, MregError):  # packing tells of what cannot be read
        return None


def _of_file(path: Path, left_out: Collection[str] = (), title: str = "") -> Snapshot:
    beside = path.with_name(MANIFEST_NAME)
    manifest = read_manifest(beside) if beside.is_file() else None
    entry = manifest.model(path.name) if manifest else None
    with ZipTree(path) as tree:
        facts = snapshots.of_archive(Archive(path, tree), left_out, entry)
    digest = manifest.sha256_of(path.name) if manifest and entry else "" if left_out else sha256(path)
    facts = replace(facts, size=path.stat().st_size, sha256=digest or None)
    name = manifest.name if manifest and entry else truth.name_in(path.name)
    tag = manifest.tag if manifest and entry else snapshots.tag_in(path.name)
    licence = manifest.licence if manifest and entry else None
    return Snapshot(title=title or str(path), name=name, tag=tag, licence=licence, models=(facts,))


def _of_address(ref: refs.UrlRef) -> Snapshot:
    from registry import download, web

    ranges = web.Ranges(ref.url)
    try:
        if ranges.size:
            return _with_holes(ranges.name, partial.Reader(ranges.read, ranges.size), str(ref))
    finally:
        ranges.close()
    return replace(_of_file(download.fetch(ref.url).path), title=str(ref))  # the server knows no ranges


def _archives(store: Store, release: Release) -> tuple[ModelFacts, ...]:
    """Read what is small in a release's archives."""
    found = []
    for asset in release.assets:
        if asset.uploaded and asset.name.lower().endswith(".zip"):
            published.require_file_name(asset.name)
            read_asset = _with_holes(asset.name, remote.asset_reader(store, release, asset), asset.name)
            found += [replace(model, sha256=asset.sha256 or None) for model in read_asset.models]
    return tuple(found)


def _with_holes(name: str, reader: partial.Reader, title: str) -> Snapshot:
    with tempfile.TemporaryDirectory(prefix="mreg-diff-") as folder:
        path = Path(folder, name)
        left_out = partial.copy(reader, path, full=False)
        return _of_file(path, left_out, title)
