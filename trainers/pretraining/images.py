"""The preprocessed images of a collection, and batches of patches cut out of them."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import numpy as np

from trainers.data.loader import PatchLoader
from trainers.data.patches import OPEN_CASES, CaseStore, Sampling
from trainers.data.store import open_volume

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import torch
    from numpy.typing import NDArray

    from trainers.pretraining.method import Reading


class Nothing:
    """Stands in for a mask that is 0 everywhere: reads as (1, Z, Y, X) of a box, int16."""

    def __getitem__(self, key: tuple[slice, ...]) -> NDArray[np.int16]:
        """Return zeros of the box's shape."""
        return np.zeros((1, *(edge.stop - edge.start for edge in key[1:])), dtype=np.int16)


class Anonymised:
    """A mask on disk, int8, that reads as int16."""

    def __init__(self, volume: Any) -> None:
        self._volume = volume

    def __getitem__(self, key: tuple[slice, ...]) -> NDArray[np.int16]:
        """Return a box."""
        return np.asarray(self._volume[key], dtype=np.int16)


class ImageStore(CaseStore):
    """Images below a folder, named by their paths without an ending; labels are the anonymisation mask, if wanted."""

    def __init__(self, folder: Path, cases: Sequence[str], *, anonymised: bool = False) -> None:
        super().__init__(folder, cases)
        self._anonymised = anonymised

    def _open(self, case: str) -> tuple[Any, Any, dict[Any, Any]]:
        opened: OrderedDict[str, tuple[Any, Any, dict[Any, Any]]] = self._opened.__dict__.setdefault(
            "cases", OrderedDict()
        )
        if case not in opened:
            image, mask = self.folder / f"{case}.b2nd", self.folder / f"{case}__anon.b2nd"
            masked = self._anonymised and mask.is_file()
            opened[case] = (open_volume(image), Anonymised(open_volume(mask)) if masked else Nothing(), {})
            if len(opened) > OPEN_CASES:
                opened.popitem(last=False)
        opened.move_to_end(case)
        return opened[case]


def patch_loader(
    store: ImageStore, reading: Reading, batch: int, *, train: bool, device: torch.device, seed: Sequence[int],
    threads: int = 0,
) -> PatchLoader:  # fmt: skip
    """Return an endless loader of batches: data (batch * each, 1, Z, Y, X) and target, 1 where it was anonymised."""
    sampling = Sampling(
        batch=batch * reading.each, patch=reading.patch, source=reading.source(train=train), foreground=0,
        centred=reading.centred,
    )  # fmt: skip
    augmentation = reading.augmentation if train else None
    return PatchLoader(store, sampling, augmentation, _as_they_are, device=device, seed=seed, threads=threads)


def _as_they_are(labels: torch.Tensor) -> torch.Tensor:
    return labels
