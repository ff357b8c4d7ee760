"""SHA-256 in a thread of its own, while the bytes are on their way: hashing lets go of Python's lock."""

from __future__ import annotations

import hashlib
import queue
import threading
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable

PIECE_BYTES = 1 << 18  # small enough to stay in a processor's cache from the network to the file
PIECES = 16  # that may wait to be hashed


class HashThread:
    """Hashes piece after piece; all of them once it is left."""

    def __init__(self, digest: hashlib._Hash | None = None) -> None:
        self.digest = digest if digest is not None else hashlib.sha256()
        self._pieces: queue.SimpleQueue[tuple[bytes | memoryview, Callable[[], None]] | None] = queue.SimpleQueue()
        self._room = threading.Semaphore(PIECES)
        self._thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def put(self, piece: bytes | memoryview, after: Callable[[], None] = lambda: None) -> None:
        """Hand over a piece, which must not change before `after` is called; wait while the hashing is far behind."""
        self._room.acquire()
        self._pieces.put((piece, after))

    def __exit__(self, *_: object) -> None:
        self._pieces.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (entry := self._pieces.get()) is not None:
            piece, after = entry
            self.digest.update(piece)
            after()
            self._room.release()


class Buffers:
    """A few buffers that go round: memory that is new for each piece costs more time than the copying."""

    def __init__(self) -> None:
        self._free: queue.SimpleQueue[bytearray] = queue.SimpleQueue()
        for _ in range(PIECES):
            self._free.put(bytearray(PIECE_BYTES))

    def take(self) -> bytearray:
        """Return a buffer; wait for one to be given back."""
        return self._free.get()

    def give_back(self, buffer: bytearray) -> None:
        """Let it be used again."""
        self._free.put(buffer)
