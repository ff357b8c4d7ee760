"""What a release still lacks: the registry's state and the local files in, the remaining steps out."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from typing import TYPE_CHECKING

from registry import names
from registry.attestation import SUFFIX as ATTESTATION
from registry.errors import ConflictError, MregError
from registry.files import sha256
from registry.manifest import MANIFEST_NAME
from registry.notes import block_of
from registry.signing import SIGNATURE_NAME
from registry.stores import INDEX_BLOCK
from registry.stores.contract import check_asset, newest_first

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from registry.stores import Asset, Release

_VERSION = re.compile(r"v(\d+)\.(\d+)\.(\d+)")


@dataclass(frozen=True, kw_only=True)
class LocalAsset:
    """A file that a release is to have."""

    path: Path
    size: int
    sha256: str

    @property
    def name(self) -> str:
        """Return the asset's name."""
        return self.path.name

    def equals(self, asset: Asset | None) -> bool:
        """Whether the registry has these bytes, whole."""
        return asset is not None and asset.uploaded and (asset.size, asset.sha256) == (self.size, self.sha256)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The steps from what is there to a published release."""

    tag: str
    published: Release | None = None  # it is all there: nothing to do
    draft: Release | None = None  # to be continued; None: to be created
    surplus: tuple[Release, ...] = field(default=())  # further drafts of the tag that mreg made, to be deleted
    strangers: tuple[Release, ...] = field(default=())  # further drafts of the tag that people made: they stay
    broken: tuple[Asset, ...] = field(default=())  # to be deleted from the draft
    missing: tuple[LocalAsset, ...] = field(default=())  # to be uploaded
    latest: bool = True  # whether it becomes the model's newest release

    def lines(self, *, stop_at_draft: bool = False) -> tuple[str, ...]:
        """Return one line a step, for people."""
        if self.published:
            return (f"{self.tag} is published with the same bytes: nothing to do",)
        lines = [f"delete the second draft of {self.tag} (id {draft.id})" for draft in self.surplus]
        lines += [f"leave another draft of {self.tag} (id {draft.id}): not mreg's" for draft in self.strangers]
        lines.append(f"continue the draft of {self.tag}" if self.draft else f"create a draft of {self.tag}")
        lines += [f"delete {asset.name} from the draft (broken, outdated or not ours)" for asset in self.broken]
        lines += [f"upload {asset.name}, {asset.size} bytes, SHA-256 {asset.sha256}" for asset in self.missing]
        if stop_at_draft:
            return (*lines, "stop at the draft, which only you and your team see")
        newest = "as the newest release" if self.latest else "as an older release, the newest stays"
        return (*lines, f"publish {self.tag} {newest}")


def local_asset(path: Path) -> LocalAsset:
    """Measure a file; raise `MregError` where no registry would take it."""
    return LocalAsset(path=path, size=check_asset(path), sha256=sha256(path))


def make_plan(tag: str, commit: str, wanted: Sequence[LocalAsset], releases: Iterable[Release]) -> Plan:
    """Compare the files with the model's releases and drafts; `commit` is the head of the default branch.

    Raises `ConflictError` where the tag is published with other bytes: a published asset is never replaced.
    """
    releases = list(releases)
    public = [release for release in releases if not release.draft]
    published = next((release for release in public if release.tag == tag), None)
    if published:
        _require_same(published, wanted, {release.tag for release in public})
        return Plan(tag=tag, published=published)
    # Of several drafts that interrupted or parallel calls have left, everybody keeps the same one. A draft knows the
    # commit that its tag will name: one from before the last push would tag the wrong one.
    drafts = sorted((r for r in releases if r.draft and r.tag == tag), key=lambda r: int(r.id))
    draft = next((r for r in drafts if r.commit in ("", commit)), None)
    others = [r for r in drafts if r is not draft]
    return Plan(
        tag=tag,
        draft=draft,
        surplus=tuple(r for r in others if _is_ours(r, wanted)),
        strangers=tuple(r for r in others if not _is_ours(r, wanted)),
        broken=tuple(_unwanted(draft, wanted)) if draft else (),
        missing=tuple(local for local in wanted if not (draft and local.equals(draft.asset(local.name)))),
        latest=all(is_newer(tag, release) for release in public),
    )


def require_tag(tag: str, policy: str) -> None:
    """Raise `MregError` unless a tag has the form that the model's model.toml asks for ("date" or "semver")."""
    if policy == "semver":
        if not _VERSION.fullmatch(tag):
            raise MregError(f"{tag!r} is not a version, which model.toml asks for", hint="for example --tag v1.0.0")
        return
    problem = names.check_tag(tag)
    if problem:
        raise MregError(f"tag {tag!r}: {names.EXPLANATIONS[problem]}", hint=f"today is r{date.today():%Y%m%d}")  # noqa: DTZ011


def next_free_tag(tag: str, taken: Iterable[str]) -> str:
    """Return the first tag after `tag` that is not taken: a day later, or one in a version's last place.

    >>> next_free_tag("r20251231", ["r20260101"])
    'r20260102'
    """
    taken = set(taken)
    version = _VERSION.fullmatch(tag)
    if version:
        major, minor, patch = (int(part) for part in version.groups())
        while (tag := f"v{major}.{minor}.{patch}") in taken or tag == version[0]:
            patch += 1
        return tag
    day = date(int(tag[1:5]), int(tag[5:7]), int(tag[7:9])) + timedelta(days=1)
    while (tag := f"r{day:%Y%m%d}") in taken:
        day += timedelta(days=1)
    return tag


def previous(name: str, tag: str, releases: Iterable[Release]) -> str:
    """Return NAME@TAG of the newest public release that is older than a tag and not yanked, "" where there is none.

    `releases` stand newest first.
    """
    older = (r for r in releases if not r.draft and r.tag != tag and is_newer(tag, r) and not block_of(r).yanked)
    found = next(older, None)
    return f"{name}@{found.tag}" if found else ""


def _require_same(published: Release, wanted: Sequence[LocalAsset], taken: set[str]) -> None:
    other = [local.name for local in wanted if not local.equals(published.asset(local.name))]
    if not other:
        return
    free = next_free_tag(published.tag, taken) if _is_conventional(published.tag) else ""
    raise ConflictError(
        f"{published.repo}: {published.tag} is published with another {other[0]}, which is never replaced",
        hint=f"release under the next free tag: mreg release --tag {free}" if free else "release under another tag",
    )


def _is_ours(draft: Release, wanted: Sequence[LocalAsset]) -> bool:
    """Whether a draft has nothing but what mreg writes: people's words and files are theirs to delete."""
    written = not draft.notes.strip() or f"<!-- {INDEX_BLOCK}\n" in draft.notes.replace("\r", "")
    names = {local.name for local in wanted} | {MANIFEST_NAME, SIGNATURE_NAME, "SHA256SUMS"}
    return written and all(a.name in names or a.name.startswith(f"{draft.repo}-") for a in draft.assets)


def _unwanted(draft: Release, wanted: Sequence[LocalAsset]) -> Iterator[Asset]:
    """Yield what is broken, what has our name and other bytes, archives of an earlier try, and what vouches for those.

    An attestation stays while its archive stays, a signature while its manifest does; figures may stay anyway.
    """
    ours = {local.name: local for local in wanted}
    kept = {asset.name for asset in draft.assets if asset.name in ours and ours[asset.name].equals(asset)}
    for asset in draft.assets:
        subject = _subject(asset.name)
        if asset.name in ours:
            good = asset.name in kept
        elif subject:
            good = subject in kept
        else:
            good = not asset.name.lower().endswith(".zip")
        if not (asset.uploaded and good):
            yield asset


def _subject(name: str) -> str:
    """Return the asset that an attestation or a signature speaks of, "" for everything else."""
    if name == SIGNATURE_NAME:
        return MANIFEST_NAME
    return name.removesuffix(ATTESTATION) if name.lower().endswith(f".zip{ATTESTATION}") else ""


def is_newer(tag: str, release: Release) -> bool:
    """Whether a release of this tag would stand before another one."""
    return newest_first([release, replace(release, tag=tag)])[0].tag == tag


def _is_conventional(tag: str) -> bool:
    return bool(_VERSION.fullmatch(tag)) or names.check_tag(tag) is None
