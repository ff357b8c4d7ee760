"""The manifest of a package: written beside the archives, with those of the same release that were there before."""

from __future__ import annotations

from typing import TYPE_CHECKING

from registry import __version__, names, output
from registry.errors import ConflictError
from registry.files import write_text
from registry.manifest import AssetEntry, Manifest, ModelEntry, base_variant, read

if TYPE_CHECKING:
    from pathlib import Path

    from registry.model_toml import Repo


def earlier(path: Path, repo_name: str, tag: str) -> Manifest | None:
    """Return the manifest that is there; raise `ConflictError` for another release's."""
    if not path.exists():
        return None
    found = read(path)
    if (found.name, found.tag) != (repo_name, tag):
        raise ConflictError(
            f"{path}: is the manifest of {found.name} {found.tag}", hint="give each release a folder of its own: -o"
        )
    return found


def describe(
    name: str, tag: str, repo: Repo | None, models: tuple[ModelEntry, ...], assets: tuple[AssetEntry, ...]
) -> Manifest:
    """Return the manifest of some archives."""
    full = names.parse(name).full
    fields = names.parse(full).fields if full else None
    return Manifest(
        schema_version=1,
        name=name,
        name_fields={key: tuple(value) for key, value in (fields or {}).items()},
        tag=tag,
        description=repo.toml.model.description if repo else "",
        licence=repo.toml.model.licence if repo else "",
        mreg_version=__version__,
        assets=assets,
        models=models,
    )


def write(path: Path, before: Manifest | None, manifest: Manifest) -> None:
    """Write the manifest, with the other archives of the same release that are still there.

    The same model packed whole before, or a fold each, is no other archive: it makes room.
    """
    ours = {base_variant(model.variant) for model in manifest.models}
    split = {model.variant for model in manifest.models} != ours
    for asset in before.assets if before else ():
        there = path.with_name(asset.name)
        models = [model for model in before.models if model.asset == asset.name] if before else []
        if asset.name in manifest.archives or not there.is_file() or there.stat().st_size != asset.size:
            continue
        if any(base_variant(m.variant) in ours and (split or base_variant(m.variant) != m.variant) for m in models):
            output.say(f"{asset.name}: not in the release any more, since the same model is packed otherwise now")
            continue
        manifest = manifest.model_copy(
            update={
                "assets": tuple(sorted((*manifest.assets, asset), key=lambda entry: entry.name)),
                "models": tuple(sorted((*manifest.models, *models), key=lambda entry: entry.asset)),
            }
        )
    if not path.exists() or path.read_bytes() != manifest.text().encode():
        write_text(path, manifest.text())
