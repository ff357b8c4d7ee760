"""`mreg show`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from registry import output
from registry.commands._options import json_option, registry_option
from registry.commands._tables import aligned

if TYPE_CHECKING:
    from registry.local_model import LocalModel
    from registry.manifest import ModelEntry
    from registry.models import Model
    from registry.stores import Asset, Release

INDENT = 4  # of what belongs to a release


@click.command("show")
@click.argument("ref", metavar="REF")
@registry_option
@json_option
def command(ref: str, registry: str | None, as_json: bool) -> None:
    """Show one model and its releases.

    REF is NAME (newest release), NAME@TAG, or the path or address of an archive: facts, files, digests and metrics.

    \b
    Examples:
      mreg show model_seg_sc_t2
      mreg show model_seg_sc_t2@r20260131 --json
    """
    from registry.models import show

    model = show(ref, registry)
    if as_json:
        output.document(model.as_json())
    else:
        output.answer(_page(model))


def _page(model: Model | LocalModel) -> str:
    from registry.local_model import LocalModel

    blocks = [_local(model)] if isinstance(model, LocalModel) else [_head(model)]
    for entry in model.manifest.models if model.manifest else ():
        blocks += [_facts(entry), *_metrics(entry)]
    if not isinstance(model, LocalModel):
        blocks += [_releases(model)]
    return "\n\n".join(blocks)


def _head(model: Model) -> str:
    summary = model.summary
    nothing = "every release is withdrawn" if any(not r.draft for r in model.releases) else "no published release"
    state = f"{model.shown.tag}, {model.shown.published_at[:10]}" if model.shown else nothing
    lines = [f"{click.style(summary.name, bold=True)}  {state}", summary.description, summary.url]
    lines += [_warning(model.shown)] if model.shown else []
    if summary.archived:
        lines.append("archived: nothing new is to be expected")
    return "\n".join(line for line in lines if line)


def _warning(release: Release) -> str:
    from registry.notes import block_of

    reason = block_of(release).yanked
    return f"{click.style('yanked, do not use:', fg='red')} {reason}" if reason else ""


def _local(model: LocalModel) -> str:
    facts = {"size": f"{model.size:,} bytes", "sha256": model.sha256}
    if model.manifest is None and model.dataset:
        facts["labels"] = json.dumps(model.dataset.get("labels"), ensure_ascii=False)
        facts["orientation"] = str(model.dataset.get("image_orientation", "not said"))
    return "\n".join([click.style(model.path.name, bold=True), *_listed(facts)])


def _facts(entry: ModelEntry) -> str:
    from registry.model_facts import facts

    return "\n".join([entry.asset, *_listed(facts(entry))])


def _metrics(entry: ModelEntry) -> list[str]:
    from registry.model_facts import classes_table, metrics_origin, metrics_table

    if entry.metrics is None or not entry.metrics.mean:
        return []
    table = aligned(metrics_table(entry.metrics), numbers=True)
    classes = classes_table(entry.metrics)
    if classes:
        table = [*table, "", *aligned(classes)]
    return ["\n".join(f"  {line}".rstrip() for line in [*table, metrics_origin(entry.metrics)])]


def _releases(model: Model) -> str:
    from registry.notes import block_of

    lines = [click.style("releases", dim=True)]
    for release in model.releases:
        yanked = block_of(release).yanked
        state = "draft" if release.draft else release.published_at[:10]
        lines.append(f"  {release.tag}  {state}" + (f"  {click.style('yanked:', fg='red')} {yanked}" if yanked else ""))
        lines += [f"    mirror: {url}" for url in block_of(release).mirrors]
        rows = [(asset.name, f"{asset.size:,}", _digest(asset)) for asset in release.assets]
        lines += [f"{'':{INDENT}}{line}" for line in _assets(rows)]
    return "\n".join(lines)


def _assets(rows: list[tuple[str, str, str]]) -> list[str]:
    """Align name, size and digest; a digest goes below its name where the terminal is too narrow for both."""
    lines = aligned(rows) if rows else []
    width = output.width()
    if width is None or all(len(line) + INDENT <= width for line in lines):
        return lines
    heads = aligned([row[:2] for row in rows])
    return [line for head, row in zip(heads, rows, strict=True) for line in (head, f"  {row[2]}")]


def _digest(asset: Asset) -> str:
    return (asset.sha256 or "SHA-256 not known") if asset.uploaded else "broken upload"


def _listed(facts: dict[str, str]) -> list[str]:
    return [f"  {line}" for line in aligned(list(facts.items()))]
