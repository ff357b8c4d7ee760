"""Registries behind one protocol: a GitHub organisation or a folder. Only these modules talk to one."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol

from registry.errors import AccessError, MregError
from registry.files import expanded, home
from registry.near import meant

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

DEFAULT_REGISTRY = "github:ivadomed"
CONFIG_KEYS = {"registry", "slurm"}  # of the user's config file
INDEX_BLOCK = "mreg"  # name of the machine-readable block in a release's notes


@dataclass(frozen=True, kw_only=True)
class RepoInfo:
    """A model's repository in the registry."""

    name: str
    description: str = ""
    topics: tuple[str, ...] = ()
    url: str = ""
    default_branch: str = "main"
    commit: str = ""  # head of the default branch, "" while the repository is empty
    archived: bool = False


@dataclass(frozen=True, kw_only=True)
class Asset:
    """One file of a release as the registry has it."""

    id: str
    name: str
    size: int
    sha256: str  # "" where the registry does not know it (old GitHub assets)
    url: str  # public address, which needs no token once the release is published
    uploaded: bool = True  # False: a broken upload that may be deleted


@dataclass(frozen=True, kw_only=True)
class Release:
    """A release, published or still a draft."""

    id: str
    repo: str
    tag: str
    title: str
    notes: str
    draft: bool
    commit: str = ""
    published_at: str = ""  # ISO 8601, "" for a draft
    immutable: bool = False
    url: str = ""  # its page, or its folder
    assets: tuple[Asset, ...] = field(default=())

    def asset(self, name: str) -> Asset | None:
        """Return the asset of that name, if it is there and whole."""
        return next((a for a in self.assets if a.name == name and a.uploaded), None)


class Store(Protocol):
    """What mreg needs of a registry. Every method raises an `MregError` (`errors.py`), never a library's own error."""

    location: str  # "github:ivadomed" or "dir:/srv/models"

    @property
    def sleep(self) -> Callable[[float], None]:
        """Return how to wait for this registry, in seconds."""

    def repos(self) -> Iterator[RepoInfo]:
        """Yield every repository, sorted by name; on GitHub without `commit`, which would cost a request each."""

    def repo(self, name: str) -> RepoInfo:
        """Return one repository; raise `NotFoundError`."""

    def create_repo(self, name: str, *, description: str, topics: tuple[str, ...]) -> RepoInfo:
        """Create an empty repository, or complete a half-made one (description, topics, labels).

        The same call twice changes nothing; what people wrote there meanwhile stays.
        """

    def push_first_commit(self, name: str, worktree: Path) -> RepoInfo:
        """Publish the first commit of the working copy as the repository's only one, then protect the default branch.

        Does nothing when the repository has that commit's tree already; raises `ConflictError` when it has another.
        """

    def files(self, name: str, commit: str = "") -> dict[str, int]:
        """Return the sizes of all files by path; of a branch, tag or commit, "" for the default branch's head."""

    def read_file(self, name: str, path: str, commit: str = "") -> bytes:
        """Return one file of a branch, tag or commit, "" for the default branch's head; raise `NotFoundError`."""

    def releases(self, repo: str) -> list[Release]:
        """Return the releases, newest tag first; drafts too where the token may see them."""

    def newest_releases(self, repos: Sequence[str]) -> dict[str, list[Release]]:
        """Return the newest releases of several repositories in as few requests as the registry allows.

        Newest tag first. Their assets may have a name and an address only; `releases` knows them whole.
        """

    def create_draft(self, repo: str, tag: str, *, title: str, notes: str, commit: str = "") -> Release:
        """Create a draft on a commit, "" for the head of the default branch."""

    def upload(
        self, release: Release, path: Path, progress: Callable[[int], None] | None = None, *, digest: str = ""
    ) -> Asset:
        """Stream a file into a draft under the file's own name; remove what a failed try left behind.

        `progress` takes the bytes just sent, and a negative number when a failed try starts again. `digest` is the
        file's SHA-256 where the caller knows it: a registry that computes its own compares that one.
        Raises `ConflictError` where the name is taken or the release is public.
        """

    def delete_asset(self, release: Release, asset: Asset) -> None:
        """Delete an asset of a draft."""

    def publish(self, release: Release, *, latest: bool) -> Release:
        """Make a draft public under its tag."""

    def delete_draft(self, release: Release) -> None:
        """Delete a draft; refuse a published release."""

    def set_notes(self, release: Release, notes: str) -> Release:
        """Replace the notes of a release."""

    def open_asset(self, release: Release, asset: Asset, offset: int = 0) -> BinaryIO:
        """Open the bytes of an asset from `offset` on."""


def resolve_location(option: str | None) -> str:
    """Return the registry to use: the flag, else MREG_REGISTRY, else the user's config file, else GitHub's ivadomed."""
    return option or os.environ.get("MREG_REGISTRY") or _configured() or DEFAULT_REGISTRY


def is_offline() -> bool:
    """Whether MREG_OFFLINE forbids the network."""
    return os.environ.get("MREG_OFFLINE", "").strip().lower() not in ("", "0", "false", "no", "off")


def config_path() -> Path:
    """Return the user's config file (`registry = "dir:/srv/models"`), which need not exist."""
    configs = os.environ.get("XDG_CONFIG_HOME")
    return (expanded(configs) if configs else home() / ".config") / "mreg" / "config.toml"


def _configured() -> str | None:
    import tomllib

    try:
        path = config_path()
    except MregError:  # a user without a home folder has none
        return None
    if not path.is_file():
        return None
    try:
        written = tomllib.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise MregError(f"{path}: {error}", hint="mend or remove the file") from error
    if unknown := sorted(written.keys() - CONFIG_KEYS):  # a typo would send everything to the default registry
        said = meant(unknown[0], CONFIG_KEYS) or f"there are: {', '.join(sorted(CONFIG_KEYS))}"
        raise MregError(f"{path}: unknown key {unknown[0]!r}", hint=said)
    value = written.get("registry")
    if value is not None and not isinstance(value, str):
        raise MregError(
            f"{path}: registry = {value!r} is not a text", hint='write registry = "github:ORG" or "dir:PATH"'
        )
    return value


def open_store(option: str | None = None) -> Store:
    """Open the registry that the option, the environment or the config file names.

    >>> open_store("dir:/srv/models").location
    'dir:/srv/models'
    """
    location = canonical_location(option)
    kind, _, rest = location.partition(":")
    if kind == "dir":
        from registry.stores.folder import FolderStore

        return FolderStore(Path(rest))
    if is_offline():
        raise AccessError(
            f"{location}: MREG_OFFLINE forbids the network",
            hint="unset MREG_OFFLINE, or use a folder registry: --registry dir:PATH",
        )
    from registry.stores.github import GitHubStore

    return GitHubStore(rest)


def canonical_location(option: str | None = None) -> str:
    """Return the location that the store of an option would have, without opening it."""
    location = resolve_location(option)
    kind, _, rest = location.partition(":")
    if kind == "dir" and rest:
        return f"dir:{expanded(rest).resolve()}"
    if kind == "github" and rest:
        return location
    raise MregError(
        f"registry {location!r} is neither github:ORG nor dir:PATH", hint="for example --registry dir:models"
    )
