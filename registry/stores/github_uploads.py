"""Files on their way into a draft on GitHub: sent once, or again where a try broke off or arrived changed."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from registry.errors import ConflictError, IntegrityError, RegistryError
from registry.files import sha256
from registry.stores.contract import check_asset
from registry.stores.github_api import Refusal, Spoiled
from registry.stores.github_assets import send
from registry.stores.github_documents import Json, asset_of, expecting_github

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from registry.stores import Asset
    from registry.stores.github_api import GitHubApi
    from registry.stores.github_release import GitHubRelease


class GitHubUploads:
    """Uploads of one process, several at a time."""

    def __init__(self, api: GitHubApi) -> None:
        self._api = api
        self._addresses: dict[str, str] = {}  # by release; one request tells it for all files
        self._left: set[tuple[str, str]] = set()  # releases and names where a try of ours may have left a broken asset
        self._lock = threading.Lock()

    def upload(self, draft: GitHubRelease, path: Path, progress: Callable[[int], None], digest: str) -> Asset:
        """Stream a file into a draft; a broken upload of that name, ours or older, is removed first."""
        check_asset(path)
        what = f"upload {path.name} to {draft.tag}"
        self._api.require("contents", draft.where, what)
        with self._lock:
            address = self._addresses.get(draft.id) or self._prepare(draft, path)
        document = self._api.patiently(
            lambda: self._send(draft, path, address, progress, digest),
            where=draft.where, what=what, needs="contents", recover=lambda: self._settle(draft, path, digest),
        )  # fmt: skip
        self._left.discard((draft.id, path.name))
        with expecting_github(draft.where):
            return asset_of(document)

    def remember(self, where: str, document: Json) -> str:
        """Keep the address for uploads that a release tells; raise where it must not see the token."""
        with expecting_github(where):
            address: str = document["upload_url"].partition("{")[0]
            number = str(document["id"])
        if not self._api.trusts(address):
            raise RegistryError(f"{where}: {address} is no address of {self._api.url}", hint="no token was sent")
        self._addresses[number] = address
        return address

    def forget(self, draft: GitHubRelease) -> None:
        """Ask again before the next upload, which is refused where the release is public by then."""
        self._addresses.pop(draft.id, None)

    def _prepare(self, draft: GitHubRelease, path: Path) -> str:
        """Return the address for uploads, once nothing of that name is in the way."""
        document = draft.draft("take an asset")
        with expecting_github(draft.where):
            known = [asset_of(asset) for asset in document["assets"]]
        for asset in known:
            if asset.name == path.name and asset.uploaded:
                raise _taken(draft, path)
            if asset.name == path.name:
                draft.delete_asset(asset.id)
        return self.remember(draft.where, document)

    def _send(
        self, draft: GitHubRelease, path: Path, address: str, progress: Callable[[int], None], digest: str
    ) -> Json:
        """Upload once; whatever arrived changed or renamed is removed again."""
        try:
            sent = send(self._api, address, path, progress, digest)
        except Refusal as refusal:
            if not refusal.duplicate:
                self._left.add((draft.id, path.name))
                raise
            raise Spoiled(f"{path.name}: a broken upload is in the way") from refusal
        except BaseException:
            self._left.add((draft.id, path.name))
            raise
        with expecting_github(draft.where):
            name, number = sent.document["name"], str(sent.document["id"])
        if name != path.name:
            draft.delete_asset(number)
            raise IntegrityError(f"{path.name}: GitHub calls it {name}", hint="rename the file")
        if not sent.arrived:
            draft.delete_asset(number)
            progress(-sent.size)
            raise Spoiled(f"{path.name} arrived with other bytes than were sent")
        return sent.document

    def _settle(self, draft: GitHubRelease, path: Path, digest: str) -> Json | None:
        """After a failed try: return the asset if it arrived after all, else remove what the try left."""
        ours = (draft.id, path.name) in self._left
        for asset in draft.assets():
            if asset["name"] != path.name:
                continue
            if not ours:  # nothing of that name was there before
                raise _taken(draft, path, whole=asset["state"] == "uploaded")
            if asset["state"] != "uploaded":
                draft.delete_asset(str(asset["id"]))
            elif asset["digest"] == f"sha256:{digest or sha256(path)}":
                return asset
            else:
                raise ConflictError(f"{draft.where}: somebody else uploaded another {path.name} to {draft.tag}")
        return None


def _taken(draft: GitHubRelease, path: Path, *, whole: bool = True) -> ConflictError:
    if whole:
        return ConflictError(
            f"{draft.where}: the draft of {draft.tag} has an asset {path.name} already", hint="delete the asset first"
        )
    return ConflictError(
        f"{draft.where}: somebody else is uploading {path.name} to {draft.tag} at this moment",
        hint="wait until they are done, then run the same command again",
    )
