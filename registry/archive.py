"""`mreg package`: from a run to the archive of a release and its manifest.

    nnUNetTrainer__nnUNetPlans__3d_fullres/
      dataset.json plans.json dataset_fingerprint.json trainer_class.py (custom trainers)
      fold_0/checkpoint_final.pth debug.json progress.png training_log_….txt

With layout "dataset" this folder lies in DatasetNNN_Name/, where 3D Slicer and nnU-Net's own import want it. The same
run gives the same bytes, wherever and whenever it is packed: nothing is compressed (weights would shrink by 7 %, and
the bytes would depend on the build of zlib), names are sorted, dates and modes are fixed.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from registry import __version__, checkpoints, names
from registry.archive_members import CROP_FILE, collect, crop_metadata, read_dataset_json, require_finished
from registry.errors import ConflictError, IntegrityError, MregError
from registry.files import sha256, write_text
from registry.manifest import MANIFEST_NAME, AssetEntry, Manifest, Member, read
from registry.release_facts import Place, describe_model
from registry.runs import FINAL
from registry.stored_zip import StoredZip

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
class Package:
    """An archive and its manifest on disk."""

    archive: Path
    manifest: Path
    size: int
    sha256: str
    created: bool  # False: the same archive was there already

    def as_json(self) -> dict[str, Any]:
        """Return the document of `mreg package --json`."""
        return {
            "archive": str(self.archive),
            "manifest": str(self.manifest),
            "size": self.size,
            "sha256": self.sha256,
            "created": self.created,
        }


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
    repo: Repo | None = None,
    reference: Callable[[Path], Reference] | None = None,
) -> Package:
    """Build the archive of a finished run and its manifest in `out`, which is created.

    `half` stores the weights as 16-bit floats, `keep_optimizer` also what continuing the training needs, `variant` is a
    word in the archive's name for a release with several archives. `reference` runs the finished archive and says what
    it gives, for the manifest. Building again changes nothing.
    Raises `MregError` for a run that cannot be released, `ConflictError` where another archive has the same name.
    """
    target, manifest = out / archive_name(repo_name, tag, variant), out / MANIFEST_NAME
    earlier = _earlier(manifest, repo_name, tag)
    folds = require_finished(run)
    dataset_json = read_dataset_json(run)
    top = _top(run, layout)
    folder = top + run.trainer_folder
    members: dict[str, bytes | Path] = {f"{folder}/{n}": d for n, d in collect(run, folds, dataset_json).items()}
    if repo is not None and repo.toml.sct.cropped_image:
        members[top + CROP_FILE] = crop_metadata(repo.root)
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=".package-") as work:
        weights = {}
        for fold in folds:
            slim = Path(work, f"{fold.name}.pth")
            weights[fold.name] = checkpoints.slim(fold / FINAL, slim, half=half, keep_optimizer=keep_optimizer)
            _require_same_model(run, fold / FINAL, weights[fold.name])
            members[f"{folder}/{fold.name}/{FINAL}"] = slim
        _require_size(target, members, half=half)
        made = Path(work, target.name)
        written = _write(made, members)
        model = describe_model(run, dataset_json, weights, Place(target.name, variant, layout), half, repo, written)
        if reference is not None:
            model = model.model_copy(update={"reference": reference(made)})
        created, digest = _put(made, target)
    asset = AssetEntry(name=target.name, size=target.stat().st_size, sha256=digest)
    _write_manifest(manifest, earlier, _manifest(repo_name, tag, repo, model, asset))
    return Package(archive=target, manifest=manifest, size=asset.size, sha256=digest, created=created)


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


def _require_size(target: Path, members: Mapping[str, bytes | Path], *, half: bool) -> None:
    total = sum(data.stat().st_size if isinstance(data, Path) else len(data) for data in members.values())
    if total > LARGEST:
        ways = [] if half else ["--half halves it (evaluate with --half first)"]
        ways.append("or release fewer folds: move the others out of the run")
        raise MregError(
            f"{target.name} would have {total / 1e9:.2f} GB, and GitHub takes {LARGEST / 1e9:.2f} GB an asset",
            hint=", ".join(ways),
        )


def _write(path: Path, members: Mapping[str, bytes | Path]) -> tuple[Member, ...]:
    """Write the zip, sorted; return what it holds."""
    written = []
    with path.open("wb") as file:
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


def _put(made: Path, target: Path) -> tuple[bool, str]:
    """Move the archive to its place unless it is there; return whether it was not, and its digest."""
    digest = sha256(made)
    if not target.exists():
        made.replace(target)
        return True, digest
    if not target.is_file() or sha256(target) != digest:
        raise ConflictError(
            f"{target}: is there already, made from something else",
            hint="choose another tag (--tag), or remove that file if it was never released",
        )
    return False, digest


def _earlier(path: Path, repo_name: str, tag: str) -> Manifest | None:
    """Return the manifest that is there; raise `ConflictError` for another release's."""
    if not path.exists():
        return None
    found = read(path)
    if (found.name, found.tag) != (repo_name, tag):
        raise ConflictError(
            f"{path}: is the manifest of {found.name} {found.tag}", hint="give each release a folder of its own: -o"
        )
    return found


def _manifest(repo_name: str, tag: str, repo: Repo | None, model: ModelEntry, asset: AssetEntry) -> Manifest:
    full = names.parse(repo_name).full
    fields = names.parse(full).fields if full else None
    return Manifest(
        schema_version=1,
        name=repo_name,
        name_fields={key: tuple(value) for key, value in (fields or {}).items()},
        tag=tag,
        description=repo.toml.model.description if repo else "",
        licence=repo.toml.model.licence if repo else "",
        mreg_version=__version__,
        assets=(asset,),
        models=(model,),
    )


def _write_manifest(path: Path, earlier: Manifest | None, manifest: Manifest) -> None:
    """Write the manifest, with the other archives of the same release that are still there."""
    for asset in earlier.assets if earlier else ():
        there = path.with_name(asset.name)
        if asset.name in manifest.archives or not there.is_file() or there.stat().st_size != asset.size:
            continue
        models = [model for model in earlier.models if model.asset == asset.name] if earlier else []
        manifest = manifest.model_copy(
            update={
                "assets": tuple(sorted((*manifest.assets, asset), key=lambda entry: entry.name)),
                "models": tuple(sorted((*manifest.models, *models), key=lambda entry: entry.asset)),
            }
        )
    if not path.exists() or path.read_bytes() != manifest.text().encode():
        write_text(path, manifest.text())
