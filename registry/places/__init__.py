"""Second places for a release's files: a folder, Zenodo, OSF. They hold copies; the registry stays the authority."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from registry.errors import MregError
from registry.files import expanded

if TYPE_CHECKING:
    from registry.release_plan import LocalAsset


@dataclass(frozen=True, kw_only=True)
class Deposit:
    """What is copied: the verified files of one release, and what a place wants to know of them."""

    name: str
    tag: str
    description: str
    licence: str  # SPDX
    creators: tuple[str, ...]
    readme: bytes  # the model's card, b"" where there is none
    notes: str
    page: str  # address of the release, "" where it has no public one
    published_on: str  # day, ISO 8601
    files: tuple[LocalAsset, ...]

    @property
    def title(self) -> str:
        """Return the title under which it is found again."""
        return f"{self.name} {self.tag}"


class Place(Protocol):
    """Somewhere to copy a release to."""

    label: str  # for messages
    public: bool  # whether its addresses mean something on other machines

    def copy(self, deposit: Deposit) -> dict[str, str]:
        """Bring every file there, whole, and return name → address; what is there already is not sent again.

        Raises `ConflictError` where the place has other bytes that cannot be replaced, `AccessError`, `RegistryError`.
        """


def open_place(text: str) -> Place:
    """Open what `--to` names: dir:PATH, zenodo[:URL] or osf[:URL]."""
    kind, _, rest = text.partition(":")
    if kind == "dir" and rest:
        from registry.places.folder import FolderPlace

        return FolderPlace(expanded(rest).resolve())
    if kind == "zenodo":
        from registry.places.zenodo import Zenodo

        return Zenodo(rest or "https://zenodo.org")
    if kind == "osf":
        from registry.places.osf import Osf

        return Osf(rest or "https://osf.io")
    raise MregError(
        f"--to {text!r}: no such kind of place", hint="dir:PATH, zenodo, osf, or zenodo:URL and osf:URL of a server"
    )
