"""Patches straight from the compressed store: only the blocks that a patch touches are unpacked.

Where patches lie is nnU-Net's rule: cases with replacement; the last third of a batch is centred on a voxel of a random
foreground class, the others lie anywhere; a patch may reach beyond the image by as much as its source box is larger
than itself.
"""

from __future__ import annotations

import pickle
import sys
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
import torch

from trainers.core.errors import TrainingError
from trainers.data.store import open_volume

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

T = TypeVar("T")
MOST_FILES = 4096  # that are open at once
MOST_BYTES = 1 << 29  # of sampled voxels in memory
UNREADABLE = (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError, KeyError)


class Kept(Generic[T]):
    """What was used last, up to a size in all. Safe for threads."""

    def __init__(self, most: int) -> None:
        self.most, self.size = most, 0
        self._things: OrderedDict[Hashable, tuple[T, int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], tuple[T, int]]) -> T:
        """Return the thing of a key; `make` gives it with its size where it is not kept."""
        with self._lock:
            if key in self._things:
                self._things.move_to_end(key)
                return self._things[key][0]
        thing, size = make()
        with self._lock:
            self.size += size - self._things.pop(key, (None, 0))[1]
            self._things[key] = thing, size
            while self.size > self.most and len(self._things) > 1:
                self.size -= self._things.popitem(last=False)[1][1]
        return thing


def _files_at_once() -> int:
    """Return half of the files that the system lets this process open."""
    try:
        import resource
    except ImportError:  # Windows
        return MOST_FILES // 16
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return MOST_FILES if limit == resource.RLIM_INFINITY else min(limit // 2, MOST_FILES)


VOLUMES: Kept[tuple[Any, Any]] = Kept(_files_at_once())
PLACES: Kept[dict[Any, Any]] = Kept(MOST_BYTES)


class CaseStore:
    """The preprocessed cases of a folder, opened when they are first needed. Safe for threads.

    Raises `TrainingError` naming a case that cannot be read.
    """

    def __init__(self, folder: Path, cases: Sequence[str]) -> None:
        self.folder = folder
        self.cases = tuple(sorted(cases))
        self._key = object()

    def shape(self, case: str) -> tuple[int, ...]:
        """Return the shape (Z, Y, X)."""
        return tuple(self._volumes(case)[0].shape[1:])

    def channels(self) -> int:
        """Return the number of channels."""
        return int(self._volumes(self.cases[0])[0].shape[0])

    def places(self, case: str) -> dict[Any, NDArray[np.int64]]:
        """Return sampled voxels (0, z, y, x) of each class, or of each region under a tuple of its labels."""

        def make() -> tuple[dict[Any, NDArray[np.int64]], int]:
            try:
                found = self.read_places(case)
            except UNREADABLE as error:
                raise self._damaged(case, error) from error
            return found, sum(np.asarray(places).nbytes for places in found.values())

        return PLACES.get((self._key, case), make)

    def read(self, case: str, box: Sequence[tuple[int, int]]) -> tuple[Tensor, Tensor, tuple[int, ...]]:
        """Return the part of a box that lies in the image: image (C, Z, Y, X) float32, labels (1, Z, Y, X) int16.

        Also the lower corner of that part in the box. The box (first voxel and last one plus one along each axis)
        may reach beyond the image, or lie beyond it: then the part is empty.
        """
        image, labels = self._volumes(case)
        inside = [
            (min(max(low, 0), size), max(min(high, size), 0))
            for (low, high), size in zip(box, image.shape[1:], strict=True)
        ]
        inside = [(low, max(low, high)) for low, high in inside]
        key = (slice(None), *(slice(low, high) for low, high in inside))
        corner = tuple(low - start for (low, _), (start, _) in zip(inside, box, strict=True))
        if any(low == high for low, high in inside):
            empty = (0,) * (len(box))
            return torch.empty((image.shape[0], *empty)), torch.empty((1, *empty), dtype=torch.int16), corner
        try:
            return torch.from_numpy(image[key]), torch.from_numpy(labels[key]), corner
        except UNREADABLE as error:
            raise self._damaged(case, error) from error

    def open(self, case: str) -> tuple[Any, Any]:
        """Open image and labels of a case."""
        return open_volume(self.folder / f"{case}.b2nd"), open_volume(self.folder / f"{case}_seg.b2nd")

    def read_places(self, case: str) -> dict[Any, NDArray[np.int64]]:
        """Read what `places` gives."""
        with (self.folder / f"{case}.pkl").open("rb") as file:
            found: dict[Any, NDArray[np.int64]] = pickle.load(file)["class_locations"]  # noqa: S301 - of our own cache
        return found

    def _volumes(self, case: str) -> tuple[Any, Any]:
        def make() -> tuple[tuple[Any, Any], int]:
            try:
                return self.open(case), 2
            except UNREADABLE as error:
                raise self._damaged(case, error) from error

        # A pair for each thread: two must not unpack through one handle.
        return VOLUMES.get((self._key, threading.get_ident(), case), make)

    def _damaged(self, case: str, error: Exception) -> TrainingError:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        return TrainingError(
            f"{self.folder / case}: the preprocessed case cannot be read: {reason}",
            hint=f"delete {self.folder}: mreg train makes it again",
        )


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Where patches are taken."""

    batch: int
    patch: tuple[int, ...]  # (Z, Y, X); Z is 1 for flat patches
    source: tuple[int, ...]  # box that is cut around a patch's centre, for what may be turned into the patch
    flat: bool = False  # batches have no axis Z
    foreground: float = 0.33  # share of a batch, at its end
    by_chance: bool = False  # that share is a probability for each sample instead
    centred: bool = False  # always in the middle of a case
    shift: tuple[int | None, ...] = ()  # how far from the middle of a case at most, for each axis; None: anywhere
    annotated: tuple[int, ...] | None = None  # key of all annotated voxels where there is an ignore label

    def wants_foreground(self, rng: np.random.Generator, sample: int) -> bool:
        """Whether this sample of a batch must be centred on foreground."""
        if self.by_chance:
            return bool(rng.random() < self.foreground)
        return sample >= round(self.batch * (1 - self.foreground))

    def corner(
        self, rng: np.random.Generator, shape: Sequence[int], places: dict[Any, NDArray[np.int64]], *, foreground: bool
    ) -> tuple[int, ...]:
        """Draw the lower corner of a source box in a case of that shape; may lie beyond the image."""
        bounds = []
        for size, patch, source in zip(shape, self.patch, self.source, strict=True):
            margin = max(source - patch, source - size)
            bounds.append((-margin // 2, size + margin // 2 + margin % 2 - source))
        if self.centred:
            return tuple(int((low + high) / 2) for low, high in bounds)
        voxels = self._centres(rng, places, foreground=foreground)
        if self.shift:
            bounds = [self._near_middle(edges, most) for edges, most in zip(bounds, self.shift, strict=True)]
        if voxels is None:
            return tuple(int(rng.integers(low, high + 1)) for low, high in bounds)
        voxel = voxels[rng.integers(len(voxels))][1:]
        return tuple(
            min(max(low, int(place) - source // 2), high if most is not None else sys.maxsize)
            for (low, high), place, source, most in zip(
                bounds, voxel, self.source, self.shift or [None] * len(bounds), strict=True
            )
        )

    @staticmethod
    def _near_middle(bounds: tuple[int, int], most: int | None) -> tuple[int, int]:
        """Return the lowest and highest corner that is not further from the middle one."""
        low, high = bounds
        if most is None:
            return bounds
        middle = (low + high) // 2
        return max(low, middle - most), min(high, middle + most)

    def _centres(
        self, rng: np.random.Generator, places: dict[Any, NDArray[np.int64]], *, foreground: bool
    ) -> NDArray[np.int64] | None:
        """Return the voxels that may be a patch's centre, None for any."""
        if not foreground:
            found = places[self.annotated] if self.annotated else ()
            return np.asarray(found) if len(found) else None
        filled = [key for key in places if len(places[key])]
        if len(filled) > 1:
            filled = [key for key in filled if key != self.annotated]
        return places[filled[rng.integers(len(filled))]] if filled else None
