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
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from trainers.data.store import open_volume

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

OPEN_CASES = 256  # kept open by each thread


class CaseStore:
    """The preprocessed cases of a folder, opened when they are first needed. Safe for threads."""

    def __init__(self, folder: Path, cases: Sequence[str]) -> None:
        self.folder = folder
        self.cases = tuple(sorted(cases))
        # Handles are not: two threads must not unpack through one of them.
        self._opened = threading.local()

    def shape(self, case: str) -> tuple[int, ...]:
        """Return the shape (Z, Y, X)."""
        return tuple(self._open(case)[0].shape[1:])

    def channels(self) -> int:
        """Return the number of channels."""
        return int(self._open(self.cases[0])[0].shape[0])

    def places(self, case: str) -> dict[Any, NDArray[np.int64]]:
        """Return sampled voxels (0, z, y, x) of each class, or of each region under a tuple of its labels."""
        found: dict[Any, NDArray[np.int64]] = self._open(case)[2]
        return found

    def read(self, case: str, box: Sequence[tuple[int, int]]) -> tuple[Tensor, Tensor, tuple[int, ...]]:
        """Return the part of a box that lies in the image: image (C, Z, Y, X) float32, labels (1, Z, Y, X) int16.

        Also the lower corner of that part in the box. The box (first voxel and last one plus one along each axis)
        may reach beyond the image, or lie beyond it: then the part is empty.
        """
        image, labels, _ = self._open(case)
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
        return torch.from_numpy(image[key]), torch.from_numpy(labels[key]), corner

    def _open(self, case: str) -> tuple[Any, Any, dict[Any, Any]]:
        opened: OrderedDict[str, tuple[Any, Any, dict[Any, Any]]] = self._opened.__dict__.setdefault(
            "cases", OrderedDict()
        )
        if case not in opened:
            with (self.folder / f"{case}.pkl").open("rb") as file:
                places = pickle.load(file)["class_locations"]  # noqa: S301 - of our own cache
            image, labels = (open_volume(self.folder / f"{case}{end}.b2nd") for end in ("", "_seg"))
            opened[case] = (image, labels, places)
            if len(opened) > OPEN_CASES:
                opened.popitem(last=False)
        opened.move_to_end(case)
        return opened[case]


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
