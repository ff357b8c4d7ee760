"""NIfTI images as a network reads them, and label maps in the geometry of the image that they belong to."""

from __future__ import annotations

import gzip
import zlib
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
from nibabel.affines import voxel_sizes
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

from trainers.core.errors import TrainingError
from trainers.core.files import atomic_path

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

UNREADABLE = (OSError, EOFError, zlib.error, ValueError, ImageFileError, HeaderDataError)
DAMAGED = "the file may be damaged or cut short: copy it again"
MEND = "mend the header: pixdim, qform and sform"
SIZE_TOLERANCE = 0.01
# Two files of one grid may have been written by programs that round differently.
TOLERANCE_MM = 1e-2


def open_image(path: Path) -> Any:
    """Open a NIfTI file and check its header, without its voxels; raise `TrainingError` naming the file."""
    if not path.is_file():
        raise TrainingError(
            f"{path}: {'a folder, not an image' if path.is_dir() else 'no such file'}", hint="give NIfTI files"
        )
    try:
        image = nib.load(path)
    except UNREADABLE as error:
        raise TrainingError(f"{path}: not a readable NIfTI file: {_first_line(error)}", hint=DAMAGED) from error
    if not isinstance(image, nib.Nifti1Pair):
        raise TrainingError(f"{path}: a {type(image).__name__}, not NIfTI", hint="convert it to .nii.gz")
    _check_header(path, image)
    return image


def _check_header(path: Path, image: Any) -> None:
    shape = image.shape
    if len(shape) > 3 and any(size != 1 for size in shape[3:]):  # noqa: PLR2004 - x, y, z
        raise TrainingError(
            f"{path}: {len(shape)}D image of shape {shape}, expected one 3D volume",
            hint="take one volume out of the series, or its mean, or give each channel as a file of its own",
        )
    if len(shape) < 2 or 0 in shape:  # noqa: PLR2004 - a slice is the least
        raise TrainingError(f"{path}: shape {shape}, expected a 3D volume")
    kind = image.get_data_dtype()
    if kind.kind not in "iuf":
        raise TrainingError(f"{path}: voxels of type {kind}, expected plain numbers", hint="convert it to one channel")
    zooms = np.asarray(image.header.get_zooms()[:3], dtype=np.float64)
    if not (np.isfinite(image.affine).all() and np.isfinite(zooms).all() and (zooms > 0).all()):
        raise TrainingError(f"{path}: the header gives no geometry: voxel size {zooms.tolist()}", hint=MEND)
    sizes = voxel_sizes(image.affine)[: len(zooms)]
    if not np.allclose(sizes, zooms, rtol=SIZE_TOLERANCE):
        raise TrainingError(
            f"{path}: the header contradicts itself: voxel size {zooms.round(4).tolist()} mm in pixdim and "
            f"{sizes.round(4).tolist()} mm in the affine",
            hint=MEND,
        )
    if np.isnan(nib.io_orientation(image.affine)).any():
        raise TrainingError(f"{path}: the header's affine has a column of zeros", hint=MEND)


def spacing_mm(image: Any) -> tuple[float, float, float]:
    """Return the voxel size along x, y and z; as nnU-Net's reader does, one slice of a 2D file is made thick."""
    zooms = [float(size) for size in image.header.get_zooms()[:3]]
    if len(zooms) == 2:  # noqa: PLR2004 - a 2D file
        zooms.append(999 * max(zooms))
    return zooms[0], zooms[1], zooms[2]


def voxel_mm(image: Any) -> tuple[float, float, float]:
    """Return the edges of a voxel along x, y and z as the affine has them."""
    x, y, z = (float(size) for size in voxel_sizes(image.affine))
    return x, y, z


def read_voxels(path: Path, image: Any) -> NDArray[Any]:
    """Read the voxels as (x, y, z) in the file's own type, scaled as the header says; refuse what is not a number."""
    try:
        voxels: NDArray[Any] = np.asanyarray(image.dataobj)
    except UNREADABLE as error:
        raise TrainingError(f"{path}: the voxels cannot be read: {_first_line(error)}", hint=DAMAGED) from error
    voxels = voxels.reshape((*image.shape, 1)[:3])
    if voxels.dtype.kind == "f" and not np.isfinite(voxels).all():
        bad = int(np.count_nonzero(~np.isfinite(voxels)))
        raise TrainingError(
            f"{path}: {bad} of {voxels.size} voxels are NaN or infinite", hint="replace them, for example by 0"
        )
    return voxels


def read_labels(path: Path, image: Any, allowed: set[int]) -> NDArray[np.integer[Any]]:
    """Read a label map as (x, y, z) integers; refuse values that dataset.json does not name."""
    voxels = read_voxels(path, image)
    values = {float(value) for value in np.unique(voxels)}
    if unknown := sorted(values - {float(value) for value in allowed}):
        shown = ", ".join(f"{value:g}" for value in unknown[:5])
        raise TrainingError(
            f"{path}: label values {shown} are not in dataset.json, which has {sorted(allowed)}",
            hint="mend the label or dataset.json",
        )
    return voxels.astype(np.int64)


def same_grid(first: Any, second: Any) -> bool:
    """Whether two images have the same voxels in the same places."""
    return bool(
        (*first.shape, 1)[:3] == (*second.shape, 1)[:3]
        and np.allclose(first.affine, second.affine, rtol=0, atol=TOLERANCE_MM)
    )


def write_labels(path: Path, labels: NDArray[Any], like: Any) -> None:
    """Write a label map (x, y, z) whole or not at all, with the shape, affine and qform and sform codes of `like`.

    Free text and extensions of the image's header are left out: scanners write names and dates there.
    """
    kind = nib.Nifti2Image if isinstance(like, nib.Nifti2Pair) else nib.Nifti1Image
    header = kind.header_class.from_header(like.header, check=False)
    header.set_data_dtype(labels.dtype)
    header.set_slope_inter(1, 0)
    for field in ("cal_min", "cal_max", "intent_p1", "intent_p2", "intent_p3", "intent_code"):
        header[field] = 0
    for field in ("descrip", "aux_file", "intent_name"):
        header[field] = b""
    if "db_name" in header:
        header["db_name"] = b""
    header.extensions.clear()
    # Without an affine the header's own qform and sform stay as they are, to the last bit.
    data = kind(labels.reshape(like.shape), None, header).to_bytes()
    with atomic_path(path) as temporary:
        temporary.write_bytes(gzip.compress(data, 6, mtime=0) if path.name.endswith(".gz") else data)


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
