"""The notes that a release is published with: what it is, how to install it, what its bytes are."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from registry import encoder_card, notes
from registry.manifest import MANIFEST_NAME
from registry.model_facts import classes_table, facts, foreground, metrics_origin, metrics_table
from registry.sct_stanza import MERGED

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from registry.manifest import Manifest, Metrics, ModelEntry, Pretraining
    from registry.release_files import Files
    from registry.release_plan import LocalAsset


def write(old: str, files: Files, *, address: Callable[[str], str], task: str, location: str) -> str:
    """Return the notes of a release: the generated part and the block, and around them what `old` says.

    `address` gives the public address of an asset, "" where there is none that SCT could install from; `task` is SCT's
    name of the task; `location` the registry's.
    """
    block = notes.parse_block(old)
    model = files.manifest.models[0]
    block = notes.Block(
        yanked=block.yanked,
        mirrors=block.mirrors,
        archive=model.asset,
        orientation=model.orientation or "",
        labels=foreground(model),
        other=block.other,
    )
    return notes.write_block(notes.write_generated(old, _generate(files, address, task, location)), block)


def _generate(files: Files, address: Callable[[str], str], task: str, location: str) -> str:
    manifest = files.manifest
    parts = [manifest.description]
    if manifest.parts:
        whole = manifest.models[0].model_copy(update={"folds": tuple(model.folds[0] for model in manifest.models)})
        parts += [_facts(whole), *_metrics(whole.metrics)]
        urls = [address(name) for name in manifest.archives]
        parts += ["### Install", _install_parts(manifest, urls, task, location)]
        return "\n\n".join([*(part for part in parts if part), "### Files", _files(files.all)])
    for model in manifest.models:
        parts += [f"## {model.asset}"] if len(manifest.models) > 1 else []
        parts += [_facts(model), *_metrics(model.metrics)]
        if model.pretraining is not None:
            parts += _start_from(manifest, model.pretraining, location)
            continue
        parts += ["### Install", _install(manifest, model, address(model.asset), task, location)]
    return "\n\n".join([*(part for part in parts if part), "### Files", _files(files.all)])


def _facts(model: ModelEntry) -> str:
    return _table(["", ""], [[f"**{name}**", _plain(value)] for name, value in facts(model).items()])


def _start_from(manifest: Manifest, about: Pretraining, location: str) -> list[str]:
    """Say how a training starts from an encoder, and what is cited then."""
    registry = location if location.startswith("github:") else ""
    start = encoder_card.commands(f"{manifest.name}@{manifest.tag}", registry)
    return ["### Start a training from it", encoder_card.USE, start, "### Cite", encoder_card.papers(about.citations)]


def _install(manifest: Manifest, model: ModelEntry, url: str, task: str, location: str) -> str:
    choice = f" --asset {model.asset}" if len(manifest.models) > 1 else ""
    # What SCT writes no file for it cannot run: a classifier.
    return _commands(_fetch(manifest, location) + choice, [url] if model.sct_suffixes else [], task)


def _install_parts(manifest: Manifest, urls: list[str], task: str, location: str) -> str:
    """Say how a model whose folds lie in archives of their own is put together; SCT does it for one model."""
    fetch = f"{_fetch(manifest, location)} --unpack"
    if not manifest.models[0].sct_suffixes:
        return _commands(fetch, [], task)
    if manifest.name == MERGED:
        return _commands(fetch, urls, task)
    return _commands(fetch, [], task) + "\n\nEach archive has one fold. SCT would take each for a model of its own."


def _fetch(manifest: Manifest, location: str) -> str:
    # The path of a folder registry is nobody's business.
    registry = f" --registry {location}" if location.startswith("github:") else ""
    return f"mreg fetch {manifest.name}@{manifest.tag}{registry}"


def _commands(fetch: str, urls: list[str], task: str) -> str:
    lines = [f"sct_deepseg {task or 'TASK'} -install -custom-url {' '.join(urls)}"] if any(urls) else []
    return "```\n" + "\n".join([*lines, fetch]) + "\n```"


def _metrics(metrics: Metrics | None) -> list[str]:
    if metrics is None or not metrics.mean:
        return []
    tables = [found for found in (metrics_table(metrics), classes_table(metrics)) if found]
    shown = [_table(head, [[_plain(cell) for cell in row] for row in rows]) for head, *rows in tables]
    origin = metrics_origin(metrics)
    return ["### Measured", *shown, _plain(origin[0].upper() + origin[1:] + ".")]


def _files(assets: Sequence[LocalAsset]) -> str:
    rows = [[f"`{asset.name}`", f"{asset.size:,}", f"`{asset.sha256}`"] for asset in assets]
    return _table(["File", "Bytes", "SHA-256"], rows) + f"\n\n`{MANIFEST_NAME}` says the rest, for programs."


def _plain(text: str) -> str:
    """Escape what Markdown would read as its own: names have underscores."""
    return re.sub(r"([\\`*_<>|\[\]])", r"\\\1", " ".join(text.split()))


def _table(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, ["---"] * len(head), *rows])
