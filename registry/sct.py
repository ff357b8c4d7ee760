"""What the Spinal Cord Toolbox (SCT) will do with a release: its conditions, its output files, its lines of code."""

from __future__ import annotations

import re
import tomllib
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from registry import checks, model_toml, notes, published, refs, sct_stanza, snapshot_sources
from registry.encoder import TRAINERS as ENCODERS
from registry.errors import MregError, NotFoundError
from registry.sct_conditions import CROP_RULE, REACHABLE, Verdict, cropped, in_one_archive, judge, reachable
from registry.stores import canonical_location, open_store

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from registry.findings import Finding
    from registry.model_toml import ModelToml
    from registry.sct_stanza import Entry
    from registry.snapshots import ModelFacts, Snapshot
    from registry.stores import Release, Store

TEST_FILE = "testing/cli/test_sct_deepseg.py"
PAGE_FOLDER = "documentation/source/user_section/command-line/deepseg"
MODELS_FILE = "spinalcordtoolbox/deepseg/models.py"
_DOWNLOAD = re.compile(r"(https?://[^/]+/[^/]+/([^/]+))/releases/download/([^/]+)/[^/]+")
_TAG = re.compile(r"([-_](r\d+\w*|v\d[\w.]*))?\.zip$")


@dataclass(frozen=True, kw_only=True)
class Integration:
    """A release as SCT's developers need it."""

    ref: str
    name: str
    tag: str
    entry: Entry
    verdicts: tuple[Verdict, ...]

    @property
    def ok(self) -> bool:
        """Whether SCT can install and run it: no condition is broken."""
        return not any(verdict.state == "fail" for verdict in self.verdicts)

    def as_json(self) -> dict[str, Any]:
        """Return the document of `mreg sct --json`."""
        return {
            "ref": self.ref,
            "name": self.name,
            "tag": self.tag or None,
            "ok": self.ok,
            "key": self.entry.key,
            "task": self.entry.task,
            "urls": [list(urls) for urls in self.entry.urls],
            "suffixes": list(self.entry.suffixes),
            "conditions": [asdict(verdict) for verdict in self.verdicts],
            "python": self.entry.python(),
            "test": self.entry.test(),
            "documentation": self.entry.documentation(),
            "install": self.entry.install(),
        }


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A release, an archive or an address, and what is known of it without a judgement."""

    target: str  # for `mreg check`
    snapshot: Snapshot
    name: str
    urls: tuple[tuple[str, ...], ...]  # of each archive: its address, then its mirrors
    page: str = ""
    toml: ModelToml | None = None
    where: Verdict  # whether SCT can reach it


def integrate(text: str, registry: str | None = None, *, full: bool = False) -> Integration:
    """Return what SCT will do with a published release, an archive or an address.

    Of what is not on this machine only what is small is read, unless `full`; a condition on weights is then "not
    read". Raises `MregError` for a ref that is no archive, or whose archive has no model that could be described.
    """
    subject = _subject(text, registry)
    if not subject.snapshot.models:
        raise MregError(f"{text}: no archive: SCT installs a .zip", hint="mreg release publishes one")
    if any((model.trainer_folder or "").startswith(ENCODERS) for model in subject.snapshot.models):
        raise MregError(f"{text}: a pre-trained encoder, of no use to SCT", hint=f"mreg train --from {text}")
    findings = checks.check(subject.target, full=full, registry=registry).findings
    entry = _entry(subject, findings)
    models = subject.snapshot.models
    several = in_one_archive([model.trainer_folder or "" for model in models], merged=entry.key == sct_stanza.MERGED)
    crop = cropped([m.asset for m in models if not m.crop], findings, wanted=entry.cropped_image)
    return Integration(
        ref=text,
        name=subject.name,
        tag=subject.snapshot.tag,
        entry=entry,
        verdicts=(subject.where, *judge(findings), several, crop),
    )


def _subject(text: str, registry: str | None) -> Subject:
    ref = refs.parse(text)
    if isinstance(ref, refs.RepoRef):
        store = open_store(registry)
        return _released(published.resolve(ref, store), store, ref.name)
    if isinstance(ref, refs.UrlRef):
        return _at_address(text, snapshot_sources.read(text, registry))
    if ref.path.is_dir():
        raise MregError(f"{ref.path}: a folder; SCT installs archives", hint="mreg package, then mreg sct ARCHIVE.zip")
    return _local(ref.path, snapshot_sources.of_path(ref.path), registry)


def _released(release: Release, store: Store, name: str) -> Subject:
    snapshot = snapshot_sources.of_release(store, release)
    archives = [release.asset(model.asset) for model in snapshot.models]
    block = notes.block_of(release)
    urls = tuple(_mirrored(asset.url, block.mirrors) for asset in archives if asset)
    return Subject(
        target=f"{name}@{release.tag}",
        snapshot=snapshot,
        name=snapshot.name or name,
        urls=urls,
        page=store.repo(name).url,
        toml=_toml(store, name),
        where=reachable([addresses[0] for addresses in urls]),
    )


def _mirrored(url: str, mirrors: Iterable[str]) -> tuple[str, ...]:
    """Return an archive's address and those of its copies: SCT tries one after the other."""
    name = url.rpartition("/")[2]
    return (url, *(m for m in mirrors if name in m and m.lower().startswith("https://")))


def _at_address(text: str, snapshot: Snapshot) -> Subject:
    known = _DOWNLOAD.fullmatch(text)
    return Subject(
        target=text,
        snapshot=replace(snapshot, tag=snapshot.tag or (known[3] if known else "")),
        name=(known[2] if known else snapshot.name) or _TAG.sub("", urlsplit(text).path.rpartition("/")[2]),
        urls=((text,),),
        page=known[1] if known else "",
        where=Verdict(title=REACHABLE, state="pass"),  # it was read without a token
    )


def _local(path: Path, snapshot: Snapshot, registry: str | None) -> Subject:
    try:
        toml = model_toml.find_repo(path.parent).toml
    except NotFoundError:
        toml = None
    name = snapshot.name or (toml.model.name if toml else _TAG.sub("", path.name))
    kind, _, org = canonical_location(registry).partition(":")
    page = f"https://github.com/{org}/{name}" if kind == "github" else ""
    url = f"{page}/releases/download/{snapshot.tag or 'TAG'}/{path.name}" if page else path.resolve().as_uri()
    return Subject(
        target=str(path),
        snapshot=snapshot,
        name=name,
        urls=((url,),),
        page=page,
        toml=toml,
        where=Verdict(title=REACHABLE, state="not asked", reasons=("not published: the address is the planned one",)),
    )


def _toml(store: Store, name: str) -> ModelToml | None:
    """Return the repository's model.toml, None where it has none that can be read."""
    try:
        content = store.read_file(name, model_toml.FILE_NAME).decode()
        return model_toml.validate(tomllib.loads(content))
    except (MregError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError):
        return None


def _entry(subject: Subject, findings: Iterable[Finding]) -> Entry:
    models, toml = subject.snapshot.models, subject.toml
    written = toml.model.description if toml else ""
    description = (written or sct_stanza.sentence(subject.name)).rstrip(".")
    misplaced = any(finding.code == CROP_RULE for finding in findings)
    return sct_stanza.Entry(
        name=subject.name,
        task=(toml.sct.task if toml else "") or sct_stanza.task_of(subject.name),
        urls=subject.urls,
        folds=_folds(models),
        page=subject.page,
        description=description,
        long_description=_long(description, models[0]),
        citation=toml.model.citation if toml else "",
        suffixes=tuple(models[0].suffixes or ()),
        cropped_image=misplaced or any(m.crop for m in models) or bool(toml and toml.sct.cropped_image),
    )


def _folds(models: tuple[ModelFacts, ...]) -> tuple[str, ...]:
    """Return what each archive's folds are called, numbers from 0 where that does not tell them apart."""
    said = tuple("_".join(model.folds or ()) for model in models)
    return said if all(said) and len(set(said)) == len(said) else tuple(str(i) for i in range(len(models)))


def _long(description: str, model: ModelFacts) -> str:
    """Return a paragraph on what a user should know of the model's making."""
    parts = [description]
    _, _, configuration = (model.trainer_folder or "").rpartition("__")
    if configuration:
        name, count = model.data or ("", 0)
        on = f" on {count} case{'s' * (count != 1)} of {name}" if name else ""
        parts.append(f"Trained with nnU-Net ({configuration}){on}")
    for label, figures in (model.metrics.mean if model.metrics else {}).items():
        if model.metrics and (dice := figures.get("dice")) is not None:
            cases = f"{model.metrics.cases} case{'s' * (model.metrics.cases != 1)}"
            parts.append(f"Mean Dice of {label}: {dice:.3f} ({cases} of {model.metrics.dataset})")
    return ". ".join(part.rstrip(".") for part in parts) + "."
