"""What the registry has: every model in one line (`mreg list`), and all that is known of one (`mreg show`)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from registry import names, notes, refs
from registry.download import fetch
from registry.errors import MregError
from registry.local_model import LocalModel, show_archive
from registry.manifest import MANIFEST_NAME
from registry.model_facts import foreground
from registry.published import list_releases, pick, read_manifest
from registry.stores import open_store

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from registry.manifest import Manifest
    from registry.stores import Release, RepoInfo, Store


@dataclass(frozen=True, kw_only=True)
class ModelSummary:
    """One model of the registry and its newest good release."""

    name: str
    description: str
    url: str
    status: str  # of the name: "valid", "warn" or "invalid"
    fields: dict[str, list[str]] = field(default_factory=dict)  # of the name, defaults written out
    archived: bool = False
    release: Release | None = None  # newest that is published and not yanked
    orientation: str = ""  # SCT's letters
    labels: tuple[str, ...] = ()
    yanked: tuple[tuple[str, str], ...] = ()  # tag and reason of the releases that are newer than `release`

    def as_json(self) -> dict[str, Any]:
        """Return the entry of `mreg list --json`."""
        return {
            "name": self.name,
            "tag": self.release.tag if self.release else None,
            "date": self.release.published_at[:10] if self.release else None,
            "description": self.description,
            "orientation": self.orientation or None,
            "labels": list(self.labels),
            "fields": self.fields,
            "status": self.status,
            "archived": self.archived,
            "yanked": [{"tag": tag, "reason": reason} for tag, reason in self.yanked],
            "url": self.url,
        }


@dataclass(frozen=True, kw_only=True)
class Model:
    """One model with all of its releases."""

    summary: ModelSummary
    releases: tuple[Release, ...]  # newest first; drafts where the token may see them
    shown: Release | None  # the release that was asked for, else the newest good one
    manifest: Manifest | None  # of `shown`

    def as_json(self) -> dict[str, Any]:
        """Return the document of `mreg show --json`; `tag` is the release that `manifest` belongs to."""
        return {
            **self.summary.as_json(),
            "tag": self.shown.tag if self.shown else None,
            "date": self.shown.published_at[:10] if self.shown else None,
            "yanked_reason": (notes.block_of(self.shown).yanked or None) if self.shown else None,
            "releases": [_release_json(release) for release in self.releases],
            "manifest": self.manifest.model_dump(mode="json") if self.manifest else None,
        }


def summaries(
    store: Store, wanted: Mapping[str, str] | None = None, *, words: Sequence[str] = (), include_all: bool = False
) -> Iterator[ModelSummary]:
    """Yield the models whose names fit, sorted by name.

    `wanted` maps a field to one word or to several with hyphens, all of which must be in the name:
    `{"anatomy": "gm-wm"}`; defaults count, so `{"anatomy": "sc"}` finds `model_seg_t2`. Names outside the convention
    come only with `include_all`, and never where a field is wanted. All of `words` must be somewhere in the name, the
    description or the labels, in whatever capitals.

    Asks GitHub once for each hundred repositories, and once for each fifty models that fit (without a token: once for
    each): names are sorted out before releases are asked for, and what a line says stands in the release's notes.
    """
    terms = read_filters(wanted or {})
    infos = []
    for info in store.repos():
        fields = _fields(info.name)
        fits = all(set(words) <= set(fields.get(name, ())) for name, words in terms.items())
        if fits and (fields or include_all):
            infos.append(info)
    releases = store.newest_releases([info.name for info in infos])
    for info in infos:
        summary = _summary(info, releases.get(info.name, []))
        summary = summary if summary.labels or summary.orientation else _described(summary, store)
        text = " ".join([summary.name, summary.description, *summary.labels]).casefold()
        if all(word.casefold() in text for word in words):
            yield summary


def _described(summary: ModelSummary, store: Store) -> ModelSummary:
    """Fill in from the manifest what the notes of a release lack, where somebody has rewritten them."""
    release = summary.release
    if release is None or release.asset(MANIFEST_NAME) is None:
        return summary
    whole = next((r for r in store.releases(summary.name) if r.id == release.id), release)
    manifest = read_manifest(store, whole)
    if manifest is None:
        return summary
    model = manifest.models[0]
    return replace(summary, orientation=model.orientation or "", labels=foreground(model))


def read_filters(wanted: Mapping[str, str]) -> dict[str, list[str]]:
    """Turn words into the vocabulary's terms; raise `MregError` for one that a field does not have.

    >>> read_filters({"contrast": "T2w"})
    {'contrast': ['t2']}
    """
    vocabulary = names.load_vocabulary()
    terms: dict[str, list[str]] = {}
    for name, text in wanted.items():
        for word in [text] if vocabulary.find(text) else text.split("-"):
            entry = vocabulary.find(word)
            if entry is None or entry.field != name or entry.kind == "qualifier":
                known = ", ".join(vocabulary.fields[name].terms)
                other = f"; {word} is a word for {entry.field}" if entry and entry.field != name else ""
                raise MregError(f"--{name} {text}: {word!r} is not a word for it{other}", hint=f"there are: {known}")
            terms.setdefault(name, []).append(entry.term)
    return terms


def show(text: str, registry: str | None = None) -> Model | LocalModel:
    """Return what a ref names: a model of the registry, or an archive, which is fetched if it has to be."""
    ref = refs.parse(text)
    if isinstance(ref, refs.RepoRef):
        return show_model(ref, open_store(registry))
    fetched = fetch(text)
    if fetched.path.is_dir():
        raise MregError(f"{fetched.path}: a folder and not an archive", hint="mreg check says what a folder holds")
    return show_archive(fetched.path)


def show_model(ref: refs.RepoRef, store: Store) -> Model:
    """Return a model, its releases and the manifest of one of them; raise `NotFoundError`.

    Asks the registry for the repository, its releases and the manifest, each once.
    """
    releases = list_releases(ref.name, store)
    info = store.repo(ref.name)
    summary = _summary(info, releases)
    shown = pick(ref, releases, store.location) if ref.tag else summary.release
    manifest = read_manifest(store, shown) if shown else None
    return Model(summary=summary, releases=tuple(releases), shown=shown, manifest=manifest)


def _release_json(release: Release) -> dict[str, Any]:
    return {
        "tag": release.tag,
        "date": release.published_at[:10] or None,
        "draft": release.draft,
        "yanked": notes.block_of(release).yanked or None,
        "mirrors": list(notes.block_of(release).mirrors),
        "url": release.url,
        "assets": [{"name": a.name, "size": a.size, "sha256": a.sha256 or None, "url": a.url} for a in release.assets],
    }


def _summary(info: RepoInfo, releases: Iterable[Release]) -> ModelSummary:
    result = names.parse(info.name)
    blocks = [(release, notes.block_of(release)) for release in releases if not release.draft]
    release, block = next(((r, b) for r, b in blocks if not b.yanked), (None, notes.Block()))
    newer = takewhile(lambda pair: pair[1].yanked, blocks)
    return ModelSummary(
        name=info.name,
        description=info.description,
        url=info.url,
        status=result.status,
        fields=_fields(info.name),
        archived=info.archived,
        release=release,
        orientation=block.orientation,
        labels=block.labels,
        yanked=tuple((r.tag, b.yanked) for r, b in newer),
    )


def _fields(name: str) -> dict[str, list[str]]:
    """Return what a name says, with the defaults that it leaves out; empty for a name outside the convention."""
    full = names.parse(name).full
    return (names.parse(full).fields or {}) if full else {}
