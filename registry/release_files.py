"""The files of a release: the archives, their manifest, and checksums for people without mreg."""

from __future__ import annotations

import sys
import tempfile
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from registry import archive, output, packaging, signing
from registry.errors import IntegrityError, NotFoundError
from registry.files import sha256, write_text
from registry.manifest import MANIFEST_NAME, Manifest, base_variant
from registry.manifest import read as read_manifest
from registry.model_toml import FILE_NAME
from registry.release_plan import LocalAsset, local_asset
from registry.runs import Run, latest_run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from registry.model_toml import Repo

CHECKSUMS = "SHA256SUMS"


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to pack, where model.toml and an earlier `mreg package` are not to be followed."""

    run: Run | None = None  # None: the newest complete one
    layout: str = ""
    half: bool = False
    per_fold: bool | None = None
    reference: bool = True  # whether to run the archive for the manifest's reference output
    sign: Path | None = field(default=None, compare=False)  # private key for the manifest's signature


@dataclass(frozen=True, kw_only=True)
class Files:
    """What a release is to have."""

    manifest: Manifest
    archives: tuple[LocalAsset, ...]
    others: tuple[LocalAsset, ...]  # manifest, checksums, the manifest's signature

    @property
    def all(self) -> tuple[LocalAsset, ...]:
        """Return every file, in the order of the uploads."""
        return (*self.archives, *self.others)


@contextmanager
def packed(
    repo: Repo, tag: str, options: Options, *, keep: bool, known: Callable[[], Manifest | None] = lambda: None
) -> Iterator[Files]:
    """Give the files of a release: those in dist/TAG, built where they are not there or older than the run.

    `known` is asked for the manifest that is published under the tag, if anything has to be built.
    Without `keep` nothing is written into the repo: what is built is gone afterwards.
    """
    folder = repo.dist / tag
    with nullcontext(folder) if keep else tempfile.TemporaryDirectory(prefix="mreg-release-") as place:
        out = Path(place)
        before = _read(folder, repo, tag)
        if before is None or options != Options() or not _is_current(before, folder, repo):
            folder = out
            with output.stage(f"package {repo.name} {tag}"):
                _build(repo, tag, options, before, folder, known())
        manifest = read_manifest(folder / MANIFEST_NAME)
        archives = tuple(local_asset(folder / entry.name) for entry in manifest.assets)
        described = local_asset(folder / MANIFEST_NAME)
        sums = out / CHECKSUMS
        text = "".join(f"{local.sha256}  {local.name}\n" for local in (*archives, described))
        if not sums.is_file() or sums.read_text(encoding="utf-8") != text:
            write_text(sums, text)
        signature = _signature(described.path, out, options.sign)
        others = (described, local_asset(sums), *([local_asset(signature)] if signature else []))
        yield Files(manifest=manifest, archives=archives, others=others)


def _signature(manifest: Path, out: Path, key: Path | None) -> Path | None:
    """Sign the manifest, or return the signature that lies beside it, unless it belongs to other bytes."""
    if key is not None:
        with output.stage("sign the manifest"):
            return signing.sign_file(manifest, key, out, ask=output.ask_secret if sys.stdin.isatty() else None)
    there = manifest.with_name(signing.SIGNATURE_NAME)
    if not there.is_file():
        return None
    try:
        signing.signer(manifest.read_bytes(), there.read_text(encoding="utf-8", errors="replace"))
    except IntegrityError as error:
        output.warn(f"{there}: not released: {error.message}")
        return None
    except signing.OtherKindError as error:
        output.warn(f"released as it is: {error.message}")
    return there


def _read(folder: Path, repo: Repo, tag: str) -> Manifest | None:
    """Return the manifest of a package that lies in the folder, whole."""
    try:
        manifest = read_manifest(folder / MANIFEST_NAME)
    except (IntegrityError, NotFoundError):
        return None
    whole = all((p := folder / a.name).is_file() and sha256(p) == a.sha256 for a in manifest.assets)
    return manifest if whole and (manifest.name, manifest.tag) == (repo.name, tag) else None


def _is_current(manifest: Manifest, folder: Path, repo: Repo) -> bool:
    """Whether a package is newer than what it would be made from; without a run nothing else can be made."""
    try:
        run = latest_run(repo.runs)
    except NotFoundError:
        return True
    sources = [repo.root / FILE_NAME]
    sources += [file for place in (run.path, *run.finished_folds) for file in place.glob("*") if file.is_file()]
    newest = max(file.stat().st_mtime_ns for file in sources)
    return all((folder / name).stat().st_mtime_ns >= newest for name in (MANIFEST_NAME, *manifest.archives))


def _build(repo: Repo, tag: str, options: Options, before: Manifest | None, out: Path, known: Manifest | None) -> None:
    """Build the archive as it was built before, where nobody says how."""
    like = before.models[0] if before else None
    split = options.per_fold
    if split is None:
        split = bool(before.parts) if before else repo.toml.release.per_fold
    run = options.run or latest_run(repo.runs)
    archive.build(
        run,
        repo.name,
        tag,
        out,
        layout=options.layout or (like.layout if like else repo.toml.release.layout),
        variant=_variant(before) if before else repo.toml.release.variant,
        keep_optimizer=bool(like and like.weights.optimizer),
        half=options.half or bool(like and like.weights.dtype == "float16"),
        per_fold=split,
        repo=repo,
        reference=packaging.reference_of(run, out, known=known) if options.reference else None,
    )


def _variant(before: Manifest) -> str:
    first = before.models[0].variant
    return base_variant(first) if before.parts else first
