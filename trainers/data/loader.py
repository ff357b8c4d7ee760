"""Batches for training: read by threads, moved and augmented on the device that trains.

Batch number `i` of epoch `e` depends on the seed, `e` and `i` alone, however many threads read: a training that is
resumed sees what the uninterrupted one saw. Unpacking releases Python's lock, so threads are enough, and none is needed
on a CPU, where the network wants the cores.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch

from trainers.data.augment import Augmentation, Draw, Source, augment, crops

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from trainers.data.patches import CaseStore, Sampling

READ_AHEAD = 2  # batches beyond one a thread


@dataclass(frozen=True, kw_only=True)
class Patch:
    """What was read for one sample."""

    case: str
    source: Source
    draw: Draw | None


@dataclass(frozen=True, kw_only=True)
class Raw:
    """A batch as it was read, before augmentation."""

    patches: list[Patch]
    seed: int  # of what augmentation draws on the device


class PatchLoader:
    """An endless iterator of batches {"data", "target", "keys"}, as nnU-Net's loaders give them."""

    def __init__(
        self,
        store: CaseStore,
        sampling: Sampling,
        augmentation: Augmentation | None,
        targets: Callable[[Tensor], Any],
        *,
        device: torch.device,
        seed: Sequence[int],
        threads: int = 0,
    ) -> None:
        self.store, self.sampling, self.augmentation, self.targets = store, sampling, augmentation, targets
        self.device, self.seed = device, tuple(seed)
        self._flat = sampling.flat
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="patches") if threads else None
        self._ahead: deque[Future[Raw]] = deque()
        self._threads = threads
        self.start(0)

    def start(self, epoch: int, number: int = 0) -> None:
        """Go to a batch of an epoch."""
        for future in self._ahead:
            future.cancel()
        self._ahead.clear()
        self._epoch, self._next = epoch, number

    def close(self) -> None:
        """End the threads."""
        if self._pool:
            self._pool.shutdown(cancel_futures=True)

    def __iter__(self) -> Self:
        """Return the loader."""
        return self

    def __next__(self) -> dict[str, Any]:
        """Return the next batch: data (B, C, Z, Y, X) and its targets, on the device."""
        if self._pool is None:
            raw = self.read(self._epoch, self._next)
            self._next += 1
        else:
            while len(self._ahead) < self._threads + READ_AHEAD:
                self._ahead.append(self._pool.submit(self.read, self._epoch, self._next))
                self._next += 1
            raw = self._ahead.popleft().result()
        images, labels = self._finish(raw)
        return {"data": images, "target": self.targets(labels), "keys": [patch.case for patch in raw.patches]}

    def read(self, epoch: int, number: int) -> Raw:
        """Draw and read a batch."""
        rng = np.random.default_rng((*self.seed, epoch, number))
        patches = [self._patch(rng, sample) for sample in range(self.sampling.batch)]
        return Raw(patches=patches, seed=int(rng.integers(2**62)))

    def _patch(self, rng: np.random.Generator, sample: int) -> Patch:
        """Draw a case, a place and what happens to it, and read the voxels that this needs."""
        case = self.store.cases[rng.integers(len(self.store.cases))]
        foreground = self.sampling.wants_foreground(rng, sample)
        corner = self.sampling.corner(rng, self.store.shape(case), self.store.places(case), foreground=foreground)
        whole = self.sampling.source
        draw, part = None, [(0, size) for size in whole]
        if self.augmentation:
            draw = self.augmentation.draw(rng, self.store.channels())
            part[self._flat :] = draw.source_box(self.augmentation.patch, whole[self._flat :])
        box = [(start + low, start + high) for start, (low, high) in zip(corner, part, strict=True)]
        image, labels, within = self.store.read(case, box)
        source = Source(
            image=self._pinned(image),
            labels=self._pinned(labels),
            corner=tuple(low + at for (low, _), at in zip(part, within, strict=True))[self._flat :],
            whole=whole[self._flat :],
        )
        return Patch(case=case, source=source, draw=draw)

    def _pinned(self, volume: Tensor) -> Tensor:
        """Drop the axis of a flat patch; lock memory that a GPU copies from while the CPU goes on."""
        volume = volume[:, 0] if self._flat else volume
        return volume.pin_memory() if self.device.type == "cuda" else volume

    def _finish(self, raw: Raw) -> tuple[Tensor, Tensor]:
        """Move to the device and augment there."""
        sources = [patch.source.to(self.device) for patch in raw.patches]
        if self.augmentation is None:
            shape = self.sampling.patch[self._flat :]
            return crops(sources, [(0,) * len(shape)] * len(sources), shape)
        draws = [patch.draw for patch in raw.patches if patch.draw]
        generator = torch.Generator(self.device).manual_seed(raw.seed)
        return augment(sources, draws, self.augmentation, generator)
