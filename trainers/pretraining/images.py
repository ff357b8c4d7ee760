"""The preprocessed images of a collection, and batches of patches cut out of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from trainers.data.loader import PatchLoader
from trainers.data.patches import CaseStore, Sampling
from trainers.data.store import open_volume

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import torch
    from numpy.typing import NDArray

    from trainers.pretraining.method import Reading

MOST_PLACES = 100_000  # voxels of an anatomy mask that are kept in memory


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
    """Images below a folder, named by their paths without an ending; labels are the anonymisation mask, if wanted.

    With `anatomy` the voxels of an image's anatomy mask are the places that a patch may be centred on; an image without
    a mask has none, and its patches lie anywhere.
    """

    def __init__(self, folder: Path, cases: Sequence[str], *, anonymised: bool = False, anatomy: bool = False) -> None:
        super().__init__(folder, cases)
        self._anonymised, self._anatomy = anonymised, anatomy

    def open(self, case: str) -> tuple[Any, Any]:
        """Open image and mask."""
        image, mask = self.folder / f"{case}.b2nd", self.folder / f"{case}__anon.b2nd"
        masked = self._anonymised and mask.is_file()
        return open_volume(image), Anonymised(open_volume(mask)) if masked else Nothing()

    def read_places(self, case: str) -> dict[Any, NDArray[np.int64]]:
        """Read voxels of the anatomy mask."""
        return _inside(self.folder / f"{case}__anat.b2nd") if self._anatomy else {}


def _inside(mask: Path) -> dict[int, NDArray[np.int64]]:
    """Return voxels (0, z, y, x) of a mask, evenly taken where there are many; none where there is no mask."""
    if not mask.is_file():
        return {}
    voxels = np.argwhere(open_volume(mask)[:] == 1)
    return {1: voxels[:: max(1, len(voxels) // MOST_PLACES)]}


def patch_loader(
    store: ImageStore, reading: Reading, batch: int, *, train: bool, device: torch.device, seed: Sequence[int],
    threads: int = 0, on_anatomy: float = 0.0,
) -> PatchLoader:  # fmt: skip
    """Return an endless loader of batches: data (batch * each, 1, Z, Y, X) and target, 1 where it was anonymised.

    `on_anatomy` is the share of patches that are centred on anatomy, in images whose store knows where it is.
    """
    sampling = Sampling(
        batch=batch * reading.each, patch=reading.patch, source=reading.source(train=train), foreground=on_anatomy,
        by_chance=True, centred=reading.centred,
    )  # fmt: skip
    augmentation = reading.augmentation if train else None
    return PatchLoader(store, sampling, augmentation, _as_they_are, device=device, seed=seed, threads=threads)


def _as_they_are(labels: torch.Tensor) -> torch.Tensor:
    return labels
