"""`mreg package`: from a run to the archive of a release and its manifest.

    nnUNetTrainer__nnUNetPlans__3d_fullres/
      dataset.json plans.json dataset_fingerprint.json trainer_class.py (custom trainers)
      fold_0/checkpoint_final.pth debug.json progress.png training_log_….txt

With layout "dataset" this folder lies in DatasetNNN_Name/, where 3D Slicer and nnU-Net's own import want it. The same
run gives the same bytes, wherever and whenever it is packed: nothing is compressed (weights would shrink by 7 %, and
the bytes would depend on the build of zlib), names are sorted, dates and modes are fixed. Of a pre-trained encoder
other files are packed: encoder_package says which.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from registry import checkpoints, encoder, encoder_package, package_manifest
from registry.archive_members import CROP_FILE, collect, crop_metadata_of, read_dataset_json, require_finished
from registry.classifier import TRAINER as CLASSIFIER
from registry.errors import ConflictError, IntegrityError, MregError
from registry.files import naming, sha256, workplace
from registry.lesion_model import TRAINER as LESIONS
from registry.manifest import MANIFEST_NAME, AssetEntry, Member, fold_variant
from registry.release_facts import Place, describe_model
from registry.runs import FINAL
from registry.stored_zip import StoredZip
from registry.unpack import TRAINER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from registry.checkpoints import Checkpoint
    from registry.manifest import ModelEntry, Reference
    from registry.model_toml import Repo
    from registry.runs import Run

LARGEST = (1 << 31) - 1  # bytes of a GitHub asset
LAYOUTS = ("root", "dataset")
CHUNK = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Archive:
    """An archive on disk."""

    path: Path
    size: int
    sha256: str
    created: bool  # False: the same archive was there already

    def as_json(self) -> dict[str, Any]:
        """Return the archive's part of `mreg package --json`."""
        return {"archive": str(self.path), "size": self.size, "sha256": self.sha256, "created": self.created}


@dataclass(frozen=True, kw_only=True)
class Package:
    """The archive of a run, or one for each of its folds, and their manifest on disk."""

    archives: tuple[Archive, ...]
    manifest: Path

    @property
    def archive(self) -> Path:
        """Return the archive, of several the first."""
        return self.archives[0].path

    @property
    def size(self) -> int:
        """Return the bytes of all archives."""
        return sum(made.size for made in self.archives)

    @property
    def sha256(self) -> str:
        """Return its SHA-256."""
        return self.archives[0].sha256

    @property
    def created(self) -> bool:
        """Whether anything is new."""
        return any(made.created for made in self.archives)

    def as_json(self) -> dict[str, Any]:
        """Return the document of `mreg package --json`; what it says at its top is of the first archive."""
        several = [made.as_json() for made in self.archives]
        return {**several[0], "manifest": str(self.manifest), "archives": several}


def build(
    run: Run,
    repo_name: str,
    tag: str,
    out: Path,
    *,
    layout: str = "root",
    variant: str = "",
    keep_optimizer: bool = False,
    half: bool = False,
    per_fold: bool = False,
    repo: Repo | None = None,
    reference: Callable[[Path], Reference | None] | None = None,
) -> Package:
    """Build the archive of a finished run and its manifest in `out`, which is created.

    `half` stores the weights as 16-bit floats, `keep_optimizer` also what continuing the training needs, `variant` is a
    word in the archive's name for a release with several archives, `per_fold` makes an archive of each fold.
    `reference` runs a finished archive and says what it gives, for the manifest. Building again changes nothing.
    Raises `MregError` for a run that cannot be released, `ConflictError` where another archive has the same name.
    """
    if not run.config["trainer"].startswith((TRAINER, CLASSIFIER, LESIONS)):
        reference = None  # nothing runs it as it would be run: neither SCT nor a recipe of ours
    job = _Job(run=run, layout=layout, keep_optimizer=keep_optimizer, half=half, repo=repo, reference=reference)
    folds = require_finished(run)
    parts = {fold_variant(variant, fold.name.removeprefix("fold_")): (fold,) for fold in folds}
    words = parts if per_fold else {variant: folds}
    wanted = {archive_name(repo_name, tag, word): (word, its) for word, its in words.items()}
    manifest = out / MANIFEST_NAME
    with workplace(out, "package") as work:
        earlier = package_manifest.earlier(manifest, repo_name, tag)
        entries = tuple(_pack(job, work / name, word, its) for name, (word, its) in wanted.items())
        # Only now, when nothing can be wrong with any of them.
        made = tuple(_put(work / name, out / name) for name in wanted)
        assets = tuple(AssetEntry(name=one.path.name, size=one.size, sha256=one.sha256) for one in made)
        described = package_manifest.describe(repo_name, tag, repo, entries, assets)
        package_manifest.write(manifest, earlier, described)
    return Package(archives=made, manifest=manifest)


@dataclass(frozen=True, kw_only=True)
class _Job:
    """What is packed, and how."""

    run: Run
    layout: str
    keep_optimizer: bool
    half: bool
    repo: Repo | None
    reference: Callable[[Path], Reference | None] | None


def _pack(job: _Job, target: Path, variant: str, folds: tuple[Path, ...]) -> ModelEntry:
    """Write one archive and return what the manifest says of it."""
    run = job.run
    is_encoder = run.config.get("recipe") == encoder.RECIPE
    dataset_json = encoder_package.contract(run, job.repo) if is_encoder else read_dataset_json(run)
    files = encoder_package.collect(run) if is_encoder else collect(run, folds, dataset_json)
    top = _top(run, job.layout)
    folder = top + run.trainer_folder
    members: dict[str, bytes | Path] = {f"{folder}/{n}": d for n, d in files.items()}
    root, cropped = (job.repo.root, job.repo.toml.sct.cropped_image) if job.repo else (None, False)
    if (crop := crop_metadata_of(run, root, cropped=cropped)) is not None:
        members[top + CROP_FILE] = crop
    with tempfile.TemporaryDirectory(dir=target.parent) as work:
        weights = {}
        for fold in folds:
            slim = Path(work, f"{fold.name}.pth")
            weights[fold.name] = checkpoints.slim(fold / FINAL, slim, half=job.half, keep_optimizer=job.keep_optimizer)
            _require_same_model(run, fold / FINAL, weights[fold.name])
            members[f"{folder}/{fold.name}/{FINAL}"] = slim
        _require_size(target, members, half=job.half, folds=len(folds))
        written = _write(target, members)
    place = Place(target.name, variant, job.layout)
    entry = describe_model(run, dataset_json, weights, place, job.half, job.repo, written)
    return entry.model_copy(update={"reference": job.reference(target) if job.reference else None})


def archive_name(repo_name: str, tag: str, variant: str = "") -> str:
    """Return the archive's file name; raise `MregError` where a registry would change it.

    >>> archive_name("model_seg_sc_t2", "r20261121")
    'model_seg_sc_t2-r20261121.zip'
    """
    for what, text in (("name", repo_name), ("tag", tag)):
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", text):
            raise MregError(f"{what} {text!r} is unusable in a file name", hint="use letters, digits, . _ and -")
    if not re.fullmatch(r"[A-Za-z0-9.]*", variant):
        raise MregError(f"--variant {variant!r} is unusable in a file name", hint="use letters, digits and .")
    return "-".join(part for part in (repo_name, variant, tag) if part) + ".zip"


def _top(run: Run, layout: str) -> str:
    """Return the folder above the trainer folder, "" or with a slash at its end."""
    if layout not in LAYOUTS:
        raise MregError(f"layout {layout!r} is unknown", hint=f"there are: {', '.join(LAYOUTS)}")
    name = str(run.config["dataset"]["name"])
    if layout == "root":
        return ""
    # SCT strips one top folder, unless its name looks like a trainer's
    if not re.fullmatch(r"Dataset\d{3}_[\w.-]+", name) or "nnUNetTrainer" in name:
        raise MregError(f"{run.path}: dataset {name!r} is not named DatasetNNN_Name", hint="package with --layout root")
    return f"{name}/"


def _require_same_model(run: Run, source: Path, found: Checkpoint) -> None:
    """Hold a checkpoint against the run: whoever loads several folds reads trainer and configuration from the first."""
    for key, value in (("trainer", found.trainer_name), ("configuration", found.configuration)):
        if value != run.config[key]:
            raise IntegrityError(f"{source}: {key} is {value}, and the run's is {run.config[key]}")


def _require_size(target: Path, members: Mapping[str, bytes | Path], *, half: bool, folds: int) -> None:
    total = sum(data.stat().st_size if isinstance(data, Path) else len(data) for data in members.values())
    if total > LARGEST:
        ways = [] if half else ["--half halves it (evaluate with --half first)"]
        if folds > 1:
            ways.append("--per-fold makes an archive of each fold")
            ways.append("or release fewer folds: move the others out of the run")
        raise MregError(
            f"{target.name} would have {total / 1e9:.2f} GB, and GitHub takes {LARGEST / 1e9:.2f} GB an asset",
            hint=", ".join(ways) or "no registry takes such a network: train a smaller one",
        )


def _write(path: Path, members: Mapping[str, bytes | Path]) -> tuple[Member, ...]:
    """Write the zip, sorted; return what it holds."""
    written = []
    with naming(path), path.open("wb") as file:
        with StoredZip(file) as archive:
            for name in sorted(members):
                data = members[name]
                size = data.stat().st_size if isinstance(data, Path) else len(data)
                with archive.open(name, size) as member:
                    digest = hashlib.sha256()
                    for piece in _pieces(data):
                        digest.update(piece)
                        member.write(piece)
                written.append(Member(path=name, size=size, sha256=digest.hexdigest()))
        file.flush()
        os.fsync(file.fileno())
    return tuple(written)


def _pieces(data: bytes | Path) -> Iterator[bytes]:
    if isinstance(data, bytes):
        yield data
        return
    with data.open("rb") as file:
        while piece := file.read(CHUNK):
            yield piece


def _put(made: Path, target: Path) -> Archive:
    """Move an archive to its place unless it is there."""
    digest, size, created = sha256(made), made.stat().st_size, not target.exists()
    if created:
        made.replace(target)
    elif not target.is_file() or sha256(target) != digest:
        raise ConflictError(
            f"{target}: is there already, made from something else",
            hint="choose another tag (--tag), or remove that file if it was never released",
        )
    return Archive(path=target, size=size, sha256=digest, created=created)
