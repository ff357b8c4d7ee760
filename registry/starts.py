"""What a training starts from: a released model, an archive, a run or a checkpoint becomes the file that recipes take.

A release is fetched, verified and unpacked into the cache as `mreg fetch` does it; the run's config.json says which
release and which bytes it was.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from registry import classifier, encoder, lesion_model
from registry.errors import MregError, NotFoundError
from registry.files import read_json, sha256
from registry.manifest import MANIFEST_NAME
from registry.model_toml import FILE_NAME, find_repo
from registry.runs import FINAL, latest_run

if TYPE_CHECKING:
    from registry.download import Fetched
    from registry.model_toml import Repo
    from registry.published import Archive

KEY = "start_from"  # of a recipe's settings
NNUNET = "nnunet"
# Recipe → recipes of the models that it can start from.
TAKES = {
    NNUNET: (encoder.RECIPE,),
    classifier.RECIPE: (encoder.RECIPE,),
    lesion_model.RECIPE: (encoder.RECIPE, lesion_model.RECIPE),
}
RECIPES_OF_PLANS = {
    encoder.PLANS: encoder.RECIPE,
    classifier.PLANS: classifier.RECIPE,
    lesion_model.PLANS: lesion_model.RECIPE,
}
CHECKPOINTS = (".pth", ".pt", ".ckpt")
ARCHIVE = ".zip"


@dataclass(frozen=True, kw_only=True)
class Start:
    """A checkpoint on this machine, and the release that it came from where it came from one."""

    checkpoint: Path
    name: str = ""  # of the model
    tag: str = ""
    asset: str = ""  # archive's name
    sha256: str = ""  # of the archive

    @cached_property
    def checkpoint_sha256(self) -> str:
        """Return the SHA-256 of the checkpoint."""
        return sha256(self.checkpoint)

    def as_json(self) -> dict[str, Any]:
        """Return what the run's config.json says under `start`; no path of this machine."""
        released = {key: getattr(self, key) or None for key in ("name", "tag", "asset", "sha256")}
        return {**released, "checkpoint": self.checkpoint_sha256}


def find_start(repo: Repo, overrides: dict[str, Any], registry: str | None = None) -> Start | None:
    """Return what the settings name under `start_from`, None where they name nothing.

    A text there is a path (seen from the repo: a checkpoint, a run, a model's repo, an archive or what was unpacked
    from one), else NAME, NAME@TAG or the address of an archive. Raises `MregError` for what is none of these, and for
    a model that the repo's recipe cannot start from.
    """
    recipe = repo.toml.train.recipe
    text = overrides.get(KEY, repo.toml.train.settings.get(KEY))
    if not text:
        return None
    if recipe not in TAKES:
        raise MregError(f"recipe {recipe} starts from no other model", hint="leave --from (start_from) out")
    return _find(str(text), repo.root, recipe, registry)


def _find(text: str, root: Path, recipe: str, registry: str | None) -> Start:
    path = root / Path(text).expanduser()
    if not path.exists():
        if _is_path(text):
            raise _nothing(str(path))
        return _released(text, recipe, registry)
    if path.is_dir():
        return Start(checkpoint=_checkpoint(path, recipe, text).resolve())
    if path.suffix.lower() == ARCHIVE:
        return _archived(path.resolve(), recipe)
    return Start(checkpoint=path.resolve())


def _is_path(text: str) -> bool:
    """Whether a text can only be a path, and no name of a model or address of an archive."""
    if "://" in text:
        return False
    return not re.fullmatch(r"[A-Za-z0-9_][\w.-]*(@[\w.-]*)?", text) or text.lower().endswith((*CHECKPOINTS, ARCHIVE))


def _released(text: str, recipe: str, registry: str | None) -> Start:
    """Fetch and unpack what the registry or an address has; of the wrong recipe, nothing is fetched."""
    from registry import download, refs
    from registry.stores import is_offline, open_store

    def accept(archive: Archive) -> None:
        entry = archive.manifest.model(archive.asset.name) if archive.manifest else None
        if entry is not None:
            _require(entry.recipe, recipe, f"{archive.release.repo}@{archive.release.tag}")

    ref = refs.parse(text)
    name = ref.name if isinstance(ref, refs.RepoRef) else ""
    try:
        if is_offline():
            (found,) = download.fetch_all([text], registry, do_unpack=True)
        else:
            found = download.fetch(text, open_store(registry) if name else None, do_unpack=True, accept=accept)
    except MregError as error:
        if "--asset" not in error.hint:
            raise
        hint = f"fetch the one that you want, mreg fetch {text} --asset NAME -o DIR, and start from that file"
        raise MregError(error.message, hint=hint) from error
    return _unpacked(found, recipe, text, name=name)


def _archived(path: Path, recipe: str) -> Start:
    """Unpack an archive on this machine; the manifest beside it says which release it is."""
    from registry import download
    from registry.manifest import read

    beside = path.with_name(MANIFEST_NAME)
    manifest = read(beside) if beside.is_file() else None
    found = download.fetch(str(path), do_unpack=True)
    known = manifest is not None and manifest.sha256_of(path.name) == found.sha256
    name, tag = (manifest.name, manifest.tag) if manifest is not None and known else ("", "")
    return _unpacked(found, recipe, str(path), name=name, tag=tag)


def _unpacked(found: Fetched, recipe: str, text: str, *, name: str, tag: str = "") -> Start:
    checkpoint = _checkpoint(found.path, recipe, text)
    asset = f"{found.path.name}{ARCHIVE}" if found.sha256 else ""
    return Start(checkpoint=checkpoint, name=name, tag=found.tag or tag, asset=asset, sha256=found.sha256)


def _checkpoint(folder: Path, recipe: str, text: str) -> Path:
    """Return the checkpoint in a run, in a repo's newest run, or in what an archive was unpacked to."""
    from registry.unpack import model_folder

    if (folder / FILE_NAME).is_file():
        folder = latest_run(find_repo(folder).runs).path
    if not (folder / "plans.json").is_file() and not list(folder.glob(f"fold_*/{FINAL}")):
        try:
            folder = model_folder(folder)
        except NotFoundError:
            raise _nothing(str(folder)) from None
    _require(_recipe_of(folder), recipe, text)
    found = sorted(folder.glob(f"fold_*/{FINAL}"), key=lambda path: (path.parent.name != encoder.FOLD, path))
    if not found:
        raise NotFoundError(f"{text}: no {FINAL}: nothing to start from", hint="train it to its end: mreg train")
    return found[0]


def _recipe_of(folder: Path) -> str:
    """Return the recipe that trained a run or an unpacked model."""
    if encoder.is_encoder(folder):
        return encoder.RECIPE
    path = folder / "plans.json"
    if not path.is_file():
        return encoder.RECIPE  # a folder of nnssl's with its fold alone
    document = read_json(path)
    name = document.get("plans_name") if isinstance(document, dict) else None
    return RECIPES_OF_PLANS.get(str(name), NNUNET)


def _require(found: str, recipe: str, text: str) -> None:
    """Raise where a recipe cannot start from a model of another one."""
    takes = TAKES[recipe]
    if found not in takes:
        raise MregError(
            f"{text}: a model of recipe {found}, and recipe {recipe} starts from models of {' and '.join(takes)}",
            hint=f"name a model of recipe {takes[0]}, its run or its {FINAL}: mreg list --task pretrain",
        )


def _nothing(where: str) -> NotFoundError:
    return NotFoundError(
        f"{where}: no pre-trained encoder, and no other model to start from",
        hint=f"name a release (NAME@TAG), an archive, a run of recipe {encoder.RECIPE}, or its {FINAL}",
    )
