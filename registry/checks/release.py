"""Rules on a published release: its tag, its assets against the manifest and against the other releases."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from registry import model_toml, names, notes, published
from registry.checks.rules import rule
from registry.errors import MregError, NotFoundError
from registry.manifest import MANIFEST_NAME, Manifest

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from registry.checks.rules import Draft
    from registry.findings import Finding
    from registry.stores import Release, Store

LARGEST_ASSET = (1 << 31) - 1  # bytes, GitHub's limit
MOST_ASSETS = 1000  # GitHub's limit
VERSION = re.compile(r"v\d+\.\d+(\.\d+)?")
DATED = re.compile(r"r(\d{8})")
NEVER = "publish a new release under a new tag; what hospitals have fetched cannot be called back"


@dataclass(frozen=True, kw_only=True)
class Published:
    """A release among the others of its repository."""

    asked: str  # the name that the repository was asked for by
    release: Release
    others: tuple[Release, ...]  # public ones, newest tag first
    policy: str = "date"
    manifest: Manifest | None = None
    manifest_bytes: bytes | None = None
    broken: str = ""  # what is wrong with the manifest
    repo: str = field(default="")  # what the registry calls the repository now

    @classmethod
    def of(cls, store: Store, asked: str, release: Release, releases: Sequence[Release]) -> Published:
        """Read what the rules need beside the release: the manifest, and the repository's policy for tags."""
        others = tuple(r for r in releases if not r.draft and r.tag != release.tag)
        manifest, content, broken = None, None, ""
        try:
            manifest = published.read_manifest(store, release)
            if manifest is not None and (asset := release.asset(MANIFEST_NAME)):
                with store.open_asset(release, asset) as stream:
                    content = stream.read()
        except MregError as error:
            broken = error.message
        return cls(
            asked=asked, release=release, others=others, policy=_policy(store, asked), manifest=manifest,
            manifest_bytes=content, broken=broken, repo=store.repo(asked).name,
        )  # fmt: skip


def _policy(store: Store, name: str) -> str:
    """Return how the repository wants its tags, as its model.toml says."""
    import tomllib

    try:
        content = store.read_file(name, model_toml.FILE_NAME).decode()
        return model_toml.validate(tomllib.loads(content), model_toml.FILE_NAME).release.tags
    except (NotFoundError, MregError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError):
        return "date"


@rule("RELEASE001")
def tag_follows_the_policy(subject: Published) -> Iterator[Draft]:
    """The tag is a date of the calendar, or a version where the repo says so."""
    tag = subject.release.tag
    if subject.policy == "semver":
        if not VERSION.fullmatch(tag):
            yield "", f"tag {tag} is no version, which model.toml wants", "vX.Y.Z for the next release"
    elif code := names.check_tag(tag):
        yield (
            "",
            f"tag {tag}: {names.EXPLANATIONS[code]}",
            'rYYYYMMDD for the next one, or tags = "semver" in model.toml',
        )


@rule("RELEASE002", "warning")
def assets_say_which_release(subject: Published) -> Iterator[Draft]:
    """Every archive's name holds the tag: after a download nothing else says which release it is."""
    digits = DATED.search(subject.release.tag)
    for asset in subject.release.assets:
        if asset.name.endswith(".zip") and subject.release.tag not in asset.name:
            dated = re.search(r"(?<!\d)20\d{6}(?!\d)", asset.name)
            other = f", it names {dated[0]}" if dated and digits and dated[0] != digits[1] else ""
            yield asset.name, f"the name does not hold the tag {subject.release.tag}{other}", "<repo>-<tag>.zip"


@rule("RELEASE003")
def assets_are_the_manifests(subject: Published) -> Iterator[Draft]:
    """The assets are those that the manifest names, byte for byte: none was replaced or removed later."""
    if subject.broken:
        yield MANIFEST_NAME, subject.broken, NEVER
    if subject.manifest is None:
        return
    for entry in subject.manifest.assets:
        asset = subject.release.asset(entry.name)
        if asset is None:
            yield entry.name, "the manifest names it, the release does not have it", NEVER
        elif asset.size != entry.size:
            yield entry.name, f"{asset.size} bytes, the manifest says {entry.size}: it was replaced", NEVER
        elif asset.sha256 and asset.sha256 != entry.sha256:
            yield entry.name, "other bytes than the manifest says: it was replaced", NEVER


@rule("RELEASE004", "warning")
def archives_are_listed(subject: Published) -> Iterator[Draft]:
    """The release has a manifest, and it names every archive."""
    if subject.manifest is None:
        if not subject.broken:
            hint = "release with mreg release: without a manifest nobody can tell whether an archive was changed"
            yield "", f"no {MANIFEST_NAME}", hint
        return
    known = set(subject.manifest.archives)
    for asset in subject.release.assets:
        if asset.name.endswith(".zip") and asset.name not in known:
            yield asset.name, "the manifest does not name it: it was added later", NEVER


@rule("RELEASE005", "warning")
def bytes_are_new(subject: Published) -> Iterator[Draft]:
    """No other release has the same archive: SCT would install it again as a new model."""
    for asset in subject.release.assets:
        twins = [
            other.tag
            for other in subject.others
            if asset.name.endswith(".zip") and asset.sha256 and asset.sha256 in {a.sha256 for a in other.assets}
        ]
        if twins:
            yield asset.name, f"the same archive as in {', '.join(twins)}", "yank one of them: mreg yank"


@rule("RELEASE006", "warning")
def names_are_new(subject: Published) -> Iterator[Draft]:
    """No other release has an archive of the same name: downloads of the two could not be told apart."""
    for asset in subject.release.assets:
        tags = [
            other.tag for other in subject.others
            if asset.name.endswith(".zip") and asset.name in {a.name for a in other.assets}
        ]  # fmt: skip
        if tags:
            yield asset.name, f"{', '.join(tags)} has an asset of that name, too", "<repo>-<tag>.zip"


@rule("RELEASE007", "warning")
def one_release_a_day(subject: Published) -> Iterator[Draft]:
    """No two releases bear one date."""
    date = DATED.match(subject.release.tag)
    same = [other.tag for other in subject.others if date and other.tag.startswith(date[0])]
    if same:
        yield (
            "",
            f"{subject.release.tag} and {', '.join(same)} are of one day",
            "the next day's date for a second release",
        )


@rule("RELEASE008")
def fits_github(subject: Published) -> Iterator[Draft]:
    """Every asset is smaller than 2 GiB, and there are no more than a thousand."""
    if len(subject.release.assets) > MOST_ASSETS:
        yield "", f"{len(subject.release.assets)} assets, GitHub takes {MOST_ASSETS}", "fewer, larger archives"
    for asset in subject.release.assets:
        if asset.size > LARGEST_ASSET:
            yield asset.name, f"{asset.size} bytes, GitHub takes {LARGEST_ASSET}", "mreg package --half, or --per-fold"


@rule("RELEASE009", "warning")
def is_not_yanked(subject: Published) -> Iterator[Draft]:
    """The release was not withdrawn."""
    if reason := notes.block_of(subject.release).yanked:
        good = next((r.tag for r in subject.others if not notes.block_of(r).yanked), "")
        yield "", f"yanked: {reason}", f"use {good}" if good else "there is no good release"


@rule("RELEASE010", "warning")
def repository_keeps_its_name(subject: Published) -> Iterator[Draft]:
    """The repository still has the name that it was asked for by: redirects end where the old name is taken again."""
    if subject.repo and subject.repo.lower() != subject.asked.lower():
        yield (
            "",
            f"{subject.asked} is called {subject.repo} now",
            f"use {subject.repo}; programs with the old address break",
        )


@rule("RELEASE011")
def assets_are_whole(subject: Published) -> Iterator[Draft]:
    """Every asset was uploaded to its end."""
    for asset in subject.release.assets:
        if not asset.uploaded:
            yield asset.name, "the upload broke off", NEVER


RULES = [
    tag_follows_the_policy, assets_say_which_release, assets_are_the_manifests, archives_are_listed, bytes_are_new,
    names_are_new, one_release_a_day, fits_github, is_not_yanked, repository_keeps_its_name, assets_are_whole,
]  # fmt: skip


def findings(subject: Published) -> Iterator[Finding]:
    """Yield all findings on a release."""
    for entry in RULES:
        yield from entry.run(subject)
