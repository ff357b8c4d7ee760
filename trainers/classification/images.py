"""Volumes as a classifier reads them: NIfTI, and the formats of challenge platforms such as MetaImage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from trainers.core.errors import TrainingError
from trainers.data.nifti import TOLERANCE_MM, open_image, read_voxels, voxel_mm
from trainers.data.orientation import Reorientation

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

NIFTI = (".nii.gz", ".nii")
OTHERS = (".mha", ".mhd", ".nrrd")
AXES = 3
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])


@dataclass(frozen=True, kw_only=True)
class RawCase:
    """A case in the orientation of its model."""

    images: NDArray[np.float32]  # (C, Z, Y, X)
    mask: NDArray[np.int16] | None  # (Z, Y, X), None without a region of interest
    spacing: tuple[float, float, float]  # mm along Z, Y and X


@dataclass(frozen=True, kw_only=True)
class Volume:
    """One file: voxels (x, y, z), where they lie (index to mm, RAS), and the edges of a voxel in mm."""

    path: Path
    array: NDArray[Any]
    affine: NDArray[np.float64]
    spacing: tuple[float, float, float]


def read_case(images: Sequence[Path], mask: Path | None, orientation: str) -> RawCase:
    """Read the channels of a case, and its mask; raise `TrainingError` for files of different grids."""
    volumes = [read_volume(path) for path in images]
    first, region = volumes[0], read_volume(mask) if mask else None
    for other in [*volumes[1:], *([region] if region else [])]:
        _same_grid(first, other)
    way = Reorientation.to(orientation, first.affine)
    spacing = way.spacing(first.spacing)
    return RawCase(
        images=np.stack([way.apply(volume.array).T.astype(np.float32) for volume in volumes]),
        mask=_mask(region, way) if region else None,
        spacing=(spacing[2], spacing[1], spacing[0]),
    )


def read_volume(path: Path) -> Volume:
    """Read a file of one 3D volume; raise `TrainingError` where that is not possible."""
    if path.name.endswith(OTHERS):
        return _read_other(path)
    if not path.name.endswith(NIFTI):
        raise TrainingError(f"{path}: an image of unknown format", hint=f"formats are: {', '.join((*NIFTI, *OTHERS))}")
    image = open_image(path)
    return Volume(path=path, array=read_voxels(path, image), affine=image.affine, spacing=voxel_mm(image))


def _read_other(path: Path) -> Volume:
    import SimpleITK

    if not path.is_file():
        raise TrainingError(f"{path}: no such file")
    try:
        image = SimpleITK.ReadImage(str(path))
    except RuntimeError as error:
        raise TrainingError(f"{path}: cannot be read: {str(error).splitlines()[-1].strip()}") from error
    if image.GetDimension() != AXES or image.GetNumberOfComponentsPerPixel() != 1:
        raise TrainingError(f"{path}: {image.GetDimension()} axes, expected one 3D volume of plain numbers")
    spacing = np.abs(image.GetSpacing())
    affine = np.eye(AXES + 1)
    affine[:AXES, :AXES] = LPS_TO_RAS @ np.reshape(image.GetDirection(), (AXES, AXES)) * spacing
    affine[:AXES, AXES] = LPS_TO_RAS @ np.array(image.GetOrigin())
    array = SimpleITK.GetArrayFromImage(image).T
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise TrainingError(f"{path}: NaN or infinite voxels", hint="replace them, for example by 0")
    x, y, z = (float(size) for size in spacing)
    return Volume(path=path, array=array, affine=affine, spacing=(x, y, z))


def _same_grid(first: Volume, other: Volume) -> None:
    if first.array.shape != other.array.shape or not np.allclose(first.affine, other.affine, rtol=0, atol=TOLERANCE_MM):
        raise TrainingError(
            f"{other.path}: not on the grid of {first.path}: shape {other.array.shape} and {first.array.shape}, or "
            "other affines",
            hint="resample one of them onto the other",
        )


def _mask(region: Volume, way: Reorientation) -> NDArray[np.int16]:
    values = np.unique(region.array)
    if (values != np.round(values)).any() or values.min() < 0:
        raise TrainingError(f"{region.path}: a mask of values that are no labels: {values[:5].tolist()}")
    if not values.any():
        raise TrainingError(
            f"{region.path}: the mask is empty: there is no region of interest",
            hint="draw the region, or leave the case out",
        )
    found: NDArray[np.int16] = np.ascontiguousarray(way.apply(region.array).T.astype(np.int16))
    return found
