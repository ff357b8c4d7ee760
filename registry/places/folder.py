"""A folder as the second place: a whole folder registry, which other sites can read without a network."""

from __future__ import annotations

import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from registry import git, output
from registry.errors import ConflictError, MregError
from registry.stores.contract import newest_first
from registry.stores.folder import FolderStore

if TYPE_CHECKING:
    from registry.places import Deposit
    from registry.stores import Release


class FolderPlace:
    """A folder registry that is filled with copies: `--registry dir:PATH` reads it."""

    public = False

    def __init__(self, root: Path) -> None:
        self._store = FolderStore(root)
        self.label = self._store.location

    def copy(self, deposit: Deposit) -> dict[str, str]:
        """Copy the release into the registry: draft, files, publication, as every release there."""
        store = self._store
        info = store.create_repo(deposit.name, description=deposit.description, topics=())
        if not info.commit:
            self._first_commit(deposit)
        releases = [r for r in store.releases(deposit.name) if r.tag == deposit.tag]
        public = next((r for r in releases if not r.draft), None)
        if public is None:
            public = self._publish(deposit, releases)
        other = [f.name for f in deposit.files if not f.equals(public.asset(f.name))]
        if other:
            raise ConflictError(
                f"{self.label}: {deposit.name}@{deposit.tag} is there with another {other[0]}, which is never replaced",
                hint="choose another folder",
            )
        if public.notes != deposit.notes:  # withdrawn in the meantime, for example
            store.set_notes(public, deposit.notes)
        return {file.name: asset.url for file in deposit.files if (asset := public.asset(file.name))}

    def _publish(self, deposit: Deposit, drafts: list[Release]) -> Release:
        store = self._store
        if drafts:
            draft = min(drafts, key=lambda r: int(r.id))
        else:
            draft = store.create_draft(deposit.name, deposit.tag, title=deposit.tag, notes=deposit.notes)
        for asset in draft.assets:
            if not any(file.name == asset.name and file.equals(asset) for file in deposit.files):
                store.delete_asset(draft, asset)
        for file in deposit.files:
            if not file.equals(draft.asset(file.name)):
                with output.byte_progress(f"copy {file.name}", file.size) as progress:
                    store.upload(draft, file.path, progress)
        public = [r for r in store.releases(deposit.name) if not r.draft]
        latest = newest_first([*public, replace(draft, draft=False)])[0].tag == deposit.tag
        return store.publish(draft, latest=latest)

    def _first_commit(self, deposit: Deposit) -> None:
        """A folder registry's repository begins with a commit: here, of the model's card."""
        with tempfile.TemporaryDirectory(prefix="mreg-mirror-") as place:
            tree = Path(place).resolve()
            (tree / "README.md").write_bytes(deposit.readme or f"# {deposit.name}\n".encode())
            bare = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}  # no hooks, no signatures
            who = ["-c", "user.name=mreg", "-c", "user.email=mreg@localhost"]
            for arguments in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "--message", "Mirror"]):
                done = git.run(tree, *who, *arguments, variables=bare)
                if done.returncode:
                    raise MregError(f"{self.label}: git {arguments[0]} failed: {git.complaint(done)}")
            self._store.push_first_commit(deposit.name, tree)
