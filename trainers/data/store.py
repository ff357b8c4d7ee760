"""The compressed store of preprocessed cases: one blosc2 array a case, read block by block.

The files are those of nnU-Net 2.8, which trains from them as they are:

    CASE.b2nd        image (C, Z, Y, X), float32
    CASE_seg.b2nd    label map (1, Z, Y, X), int16; -1 lies outside of the image's nonzero region
    CASE.pkl         what is needed to go back to the image's grid, and sampled voxels of each class

A patch touches few blocks, so blocks are small (128 KiB, within the processor's cache) and shaped like a patch. LZ4 at
its lowest level is written at memory speed and read as fast as any other codec: nnU-Net's LZ4HC 5 takes 15 times as
long to write and saves 4 % of the space of a resampled volume.
"""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING, Any

import blosc2
import numpy as np
from nnunetv2.training.dataloading.nnunet_dataset import comp_blosc2_params

from trainers.core.errors import TrainingError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

CODEC = blosc2.Codec.LZ4
LEVEL = 1
MAKE_ROOM = "make room and run the same command again: what is whole is not computed anew"


def write_volume(
    path: Path,
    volume: NDArray[Any],
    patch: Sequence[int],
    threads: int = 1,
    layout: tuple[Sequence[int], Sequence[int]] | None = None,
) -> None:
    """Write an array (C, Z, Y, X) in blocks that suit patches of `patch` voxels (Z, Y, X or Y, X).

    `layout` sets the shapes of blocks and chunks itself. Raises `TrainingError` where the disk has no room.
    """
    blocks, chunks = layout or comp_blosc2_params(volume.shape, tuple(patch), volume.itemsize)
    volume = np.ascontiguousarray(volume)
    settings = {
        "codec": CODEC,
        "clevel": LEVEL,
        "nthreads": threads,
        "filters": [_filter(volume, chunks, blocks, threads)],
        "filters_meta": [0],
    }
    try:
        blosc2.asarray(volume, chunks=chunks, blocks=blocks, urlpath=str(path), cparams=settings)
    except RuntimeError as error:  # all that blosc2 says of a write that failed
        free = shutil.disk_usage(path.parent).free
        raise TrainingError(
            f"{path}: cannot be written, with {free / 1e6:.1f} MB free on the disk ({error})", hint=MAKE_ROOM
        ) from error


def _filter(volume: NDArray[Any], chunks: Sequence[int], blocks: Sequence[int], threads: int) -> blosc2.Filter:
    """Shuffle bytes where that helps: whole-numbered images compress better without, interpolated ones with it."""
    edges = [(size, min(size, chunk)) for size, chunk in zip(volume.shape, chunks, strict=True)]
    sample = np.ascontiguousarray(volume[tuple(slice((n - c) // 2, (n + c) // 2) for n, c in edges)])
    sizes = {}
    for choice in (blosc2.Filter.NOFILTER, blosc2.Filter.SHUFFLE):
        cparams = {"codec": CODEC, "clevel": LEVEL, "nthreads": threads, "filters": [choice], "filters_meta": [0]}
        packed = blosc2.asarray(
            sample, chunks=sample.shape, blocks=tuple(map(min, blocks, sample.shape)), cparams=cparams
        )
        sizes[choice] = packed.schunk.cbytes
    return min(sizes, key=lambda choice: sizes[choice])


def open_volume(path: Path) -> Any:
    """Open an array for reading: slices of it are NumPy arrays, and only the blocks that they touch are unpacked."""
    mapped = {} if os.name == "nt" else {"mmap_mode": "r"}  # not on Windows, as in nnU-Net
    return blosc2.open(urlpath=str(path), mode="r", dparams={"nthreads": 1}, **mapped)
