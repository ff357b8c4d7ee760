"""NIfTI files, one volume at a time: read to the last byte and judged, written with nothing but voxels and place."""

from __future__ import annotations

import gzip
import itertools
import math
import os
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from registry.errors import IntegrityError

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    Affine = NDArray[np.float64]  # (4, 4), voxel index → mm

WORKERS = min(8, os.cpu_count() or 1)  # threads, each with a case in memory
# Part of a voxel's shortest edge that two grids may be apart anywhere: programs round affines differently, and a qform
# alone is good to a few parts in 10,000 of the volume's length.
GRID_TOLERANCE = 0.2
FARTHEST_MM, SMALLEST_MM = 1e6, 1e-6  # what lies outside is a damaged header
LARGEST_ANNEX_POINTER = 32768  # bytes
DIMENSIONS = 3
NIFTI2_HEADER = 540  # the number that such a file begins with


@dataclass(frozen=True, eq=False)
class Volume:
    """A volume and where it lies."""

    array: NDArray[Any]  # (x, y, z); float32 where the header scales the stored numbers, else as stored
    affine: Affine
    located: bool = True  # False: the header does not say where it lies, so the affine is a guess
    forms_off_mm: float = 0.0  # how far sform and qform are apart at the worst corner


def read_volume(path: Path) -> Volume:
    """Read a NIfTI file of one volume to its end, which is what finds a wrong checksum.

    Raises `IntegrityError` for a file that was not fetched, is missing, cut short, damaged, not NIfTI, not plain
    numbers, of another dimension, or without a usable affine.
    """
    array, place = _read(path)
    while array.ndim > DIMENSIONS and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim != DIMENSIONS:
        raise IntegrityError(f"{path}: {array.shape} voxels, expected one volume of three dimensions")
    return Volume(array, **place)


def read_series(path: Path, count: int) -> list[Volume]:
    """Read a NIfTI file of `count` volumes (x, y, z, volume); raise `IntegrityError` as `read_volume` does."""
    array, place = _read(path)
    if array.ndim != DIMENSIONS + 1 or array.shape[DIMENSIONS] != count:
        raise IntegrityError(f"{path}: {array.shape} voxels, expected {count} volumes along a fourth axis")
    return [Volume(array[..., number], **place) for number in range(count)]


def _read(path: Path) -> tuple[NDArray[Any], dict[str, Any]]:
    """Return all voxels, scaled, and the fields of `Volume` that say where they lie."""
    import nibabel as nib
    import numpy as np
    from nibabel.filebasedimages import ImageFileError
    from nibabel.spatialimages import HeaderDataError
    from nibabel.wrapstruct import WrapStructError

    if is_annex_pointer(path):
        raise IntegrityError(f"{path}: its content was not fetched: git annex get {path.name}")
    try:
        content = path.read_bytes()
        content = gzip.decompress(content) if path.name.endswith(".gz") else content
        sizes = {int.from_bytes(content[:4], "little"), int.from_bytes(content[:4], "big")}
        with np.errstate(all="ignore"):  # a damaged header's numbers are judged below
            image = (nib.Nifti2Image if NIFTI2_HEADER in sizes else nib.Nifti1Image).from_bytes(content)
            _require_plain(path, image, len(content))
            place = _place(path, image)
            array = np.asanyarray(image.dataobj)
            if (image.dataobj.slope, image.dataobj.inter) != (1, 0):
                array = array.astype(np.float32)  # what does not fit becomes infinite, which is looked for
    except (OSError, EOFError, ValueError, zlib.error, ImageFileError, HeaderDataError, WrapStructError) as error:
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise IntegrityError(f"{path}: cannot be read: {said.removesuffix('.')}") from error
    return array, place


def _require_plain(path: Path, image: Any, size: int) -> None:
    """Raise for voxels that are no plain numbers, none or too few: a header may promise more than memory holds."""
    kind, shape = image.get_data_dtype(), image.shape
    if kind.kind not in "iuf" or len(shape) < DIMENSIONS or min(shape) < 1:
        raise IntegrityError(f"{path}: {shape} voxels of type {kind}, expected numbers in three dimensions")
    promised = math.prod(shape) * kind.itemsize + image.dataobj.offset
    if promised > size:
        raise IntegrityError(f"{path}: cannot be read: cut short, {size} of {promised} bytes are there")


def _place(path: Path, image: Any) -> dict[str, Any]:
    """Return the affine and how far it can be relied on; raise where it is no geometry."""
    import numpy as np
    from nibabel import io_orientation
    from nibabel.affines import voxel_sizes

    affine = np.asarray(image.affine, dtype=np.float64)
    sane = np.isfinite(affine).all() and np.abs(affine).max() < FARTHEST_MM
    if not sane or voxel_sizes(affine).min() < SMALLEST_MM or np.isnan(io_orientation(affine)).any():
        raise IntegrityError(f"{path}: its header gives no geometry: {affine[:3].tolist()}")
    known = [
        form for form in (image.header.get_sform(coded=True)[0], image.get_qform(coded=True)[0]) if form is not None
    ]
    both = len(known) > 1
    apart = displacement_mm(image.shape[:DIMENSIONS], *known) if both else 0.0
    return {"affine": affine, "located": bool(known), "forms_off_mm": apart}


def write_volume(path: Path, array: NDArray[Any], affine: Affine) -> None:
    """Write a volume (x, y, z) with a new header, so that no free text travels along; sform and qform say the same."""
    import nibabel as nib
    import numpy as np

    kind = np.dtype(np.float64) if array.dtype.itemsize > np.dtype(np.float64).itemsize else array.dtype
    image = nib.Nifti1Image(array.astype(kind, copy=False), affine, dtype=kind)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    nib.save(image, path)
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def not_finite(array: NDArray[Any]) -> int:
    """Return how many voxels are NaN or infinite."""
    import numpy as np

    return int(np.count_nonzero(~np.isfinite(array))) if array.dtype.kind == "f" else 0


def distinct(array: NDArray[Any]) -> list[float]:
    """Return the values of a label map (x, y, z), sorted; slice by slice, since a map has few of them."""
    import numpy as np

    found: set[float] = set()
    for part in np.moveaxis(array, -1, 0):
        found.update(np.unique(part).tolist())
    return sorted(found)


def displacement_mm(shape: tuple[int, ...], one: Affine, other: Affine) -> float:
    """Return how far two affines put a volume's corners apart, at the worst of the eight."""
    import numpy as np

    corners = np.array([(*corner, 1) for corner in itertools.product(*((0, size - 1) for size in shape))])
    return float(np.linalg.norm((corners @ (one - other).T)[:, :3], axis=1).max())


def is_apart(distance_mm: float, affine: Affine) -> bool:
    """Whether a distance is too large for two grids to be the same."""
    from nibabel.affines import voxel_sizes

    return not distance_mm <= GRID_TOLERANCE * float(voxel_sizes(affine).min())  # NaN is apart, too


def grid_difference(shape: tuple[int, ...], affine: Affine, first_shape: tuple[int, ...], first_affine: Affine) -> str:
    """Say in what a grid differs from the first, "" where they are one."""
    if shape != first_shape:
        return f"{shape} voxels, not {first_shape}"
    off = displacement_mm(shape, affine, first_affine)
    return f"its corners lie up to {off:.3g} mm away" if is_apart(off, first_affine) else ""


def is_annex_pointer(path: Path) -> bool:
    """Whether git-annex has not fetched the file: a link into nowhere, or a small file that names an object."""
    if path.is_symlink() and not path.exists():
        return True
    if not path.is_file() or path.stat().st_size > LARGEST_ANNEX_POINTER:
        return False
    return b"annex/objects/" in path.read_bytes()[:1024]
