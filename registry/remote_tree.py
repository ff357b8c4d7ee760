"""A repository's files through the registry's API: names in one request, contents when a rule asks for them."""

from __future__ import annotations

import io
from typing import IO, TYPE_CHECKING

from registry.errors import IntegrityError, NotFoundError
from registry.tree import LARGEST_TEXT

if TYPE_CHECKING:
    from registry.stores import Store


class RemoteTree:
    """A tree (see `tree.Tree`) of a repository at a branch, tag or commit; "" is the default branch."""

    def __init__(self, store: Store, name: str, commit: str = "") -> None:
        self.name = name
        self._store, self._commit = store, commit
        self._sizes = store.files(name, commit)
        self._contents: dict[str, bytes] = {}

    def files(self) -> list[str]:
        """Return the paths of all files, sorted."""
        return sorted(self._sizes)

    def exists(self, path: str) -> bool:
        """Whether there is such a file."""
        return path in self._sizes

    def size(self, path: str) -> int:
        """Return a file's size in bytes."""
        return self._sizes[path]

    def open(self, path: str) -> IO[bytes]:
        """Open a file."""
        return io.BytesIO(self.read_bytes(path))

    def read_bytes(self, path: str) -> bytes:
        """Return a file's bytes, which are asked for once."""
        if path not in self._sizes:
            raise NotFoundError(f"{self.name}: no {path}")
        if self._sizes[path] > LARGEST_TEXT:
            raise IntegrityError(f"{path}: {self._sizes[path]} bytes, too large to be read here")
        if path not in self._contents:
            self._contents[path] = self._store.read_file(self.name, path, self._commit)
        return self._contents[path]

    def read_text(self, path: str) -> str:
        """Return a file's text."""
        return self.read_bytes(path).decode("utf-8", "replace")
