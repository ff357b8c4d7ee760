"""The cord's centreline: points in millimetres, so that no grid and no rounding takes part in where a window stands.

A line of single voxels does not survive resampling: at 0.3 mm in plane, 36 of 60 slices of one were empty at 0.5 mm.
"""

from __future__ import annotations

import csv
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage
from scipy.interpolate import UnivariateSpline

from trainers.core.errors import TrainingError
from trainers.core.files import atomic_path
from trainers.data.cord_box import without_specks
from trainers.data.grid import Grid
from trainers.data.nifti import open_image, read_voxels

if TYPE_CHECKING:
    from numpy.typing import NDArray

COLUMNS = ("x_mm", "y_mm", "z_mm")
ROUGHNESS_MM = 0.2  # of a cord mask's centres of mass around the smooth line through them
SPLINE_POINTS = 6  # so many at least for a smoothing spline
SCT = "sct_get_centerline"
MASK_HINT = "name its cord mask, a centreline (.csv in mm or .nii.gz), or a cord model: --cord-model NAME@TAG"


@dataclass(frozen=True, eq=False)
class Course:
    """The centreline within a grid whose third axis runs along the cord."""

    first: int  # slice
    centres: NDArray[np.float64]  # (slices, 2) in voxels
    gap_mm: float  # longest stretch that was interpolated

    @property
    def slices(self) -> slice:
        """Return the range of slices that have a centre."""
        return slice(self.first, self.first + len(self.centres))


@dataclass(frozen=True, eq=False)
class Centreline:
    """Points (N, 3) in mm of nibabel's world, from one end of the cord to the other, and where they come from."""

    points_mm: NDArray[np.float64]
    source: str

    @classmethod
    def of_mask(cls, mask: NDArray[Any], grid: Grid, source: str = "mask") -> Centreline:
        """Return the smoothed centres of mass of a cord mask's (or a line's) axial slices; gaps stay gaps.

        Raises `TrainingError` for an empty mask.
        """
        if not np.any(mask):
            raise TrainingError(f"{source}: the cord mask is empty", hint=MASK_HINT)
        oriented, way = grid.oriented("RPI")
        turned = without_specks(way.apply(np.asarray(mask)) > 0)
        found = np.flatnonzero(turned.any(axis=(0, 1)))
        centres = np.array([ndimage.center_of_mass(turned[:, :, z]) for z in found])
        if len(found) >= SPLINE_POINTS:
            sizes = oriented.spacing_mm
            for axis in range(2):
                freedom = len(found) * (ROUGHNESS_MM / sizes[axis]) ** 2
                centres[:, axis] = UnivariateSpline(found, centres[:, axis], k=3, s=freedom)(found)
        return cls(oriented.to_world(np.column_stack([centres, found])), source)

    @classmethod
    def read(cls, path: Path) -> Centreline:
        """Read a CSV with columns x_mm, y_mm, z_mm, or a NIfTI cord mask or line."""
        if path.suffix.lower() == ".csv":
            return cls(_read_csv(path), path.name)
        image = open_image(path)
        return cls.of_mask(read_voxels(path, image) > 0, Grid.of(image), str(path))

    def write(self, path: Path) -> None:
        """Write the points as CSV, whole or not at all."""
        lines = [",".join(COLUMNS), *(",".join(f"{value:.4f}" for value in point) for point in self.points_mm)]
        with atomic_path(path) as temporary:
            temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")

    def along(self, grid: Grid, hold_mm: float, name: str = "the image") -> Course:
        """Return the centre in each slice of a grid in RPI.

        Linear over gaps; beyond either end the last centre holds for `hold_mm`, and slices further on have none. Raises
        `TrainingError` where no point lies in the image.
        """
        voxels = grid.to_voxels(self.points_mm)
        if not grid.contains(voxels).any():
            low, high = (edge(self.points_mm, axis=0).round(1).tolist() for edge in (np.min, np.max))
            raise TrainingError(
                f"{name}: the centreline ({self.source}) lies outside of the image: points from {low} to {high} mm",
                hint="it must belong to this image, in the millimetres of its NIfTI header",
            )
        z, first = np.unique(voxels[:, 2].round(3), return_inverse=True)
        weights = np.bincount(first)
        x, y = (np.bincount(first, voxels[:, axis]) / weights for axis in range(2))
        reach = hold_mm / grid.spacing_mm[2]
        start = max(0, int(np.ceil(z[0] - reach - 1e-6)))
        stop = min(grid.shape[2], int(np.floor(z[-1] + reach + 1e-6)) + 1)
        if stop <= start:
            raise TrainingError(
                f"{name}: the centreline ({self.source}) ends before the image begins", hint="look at both in a viewer"
            )
        slices = np.arange(start, stop)
        centres = np.column_stack([np.interp(slices, z, x), np.interp(slices, z, y)])
        steps = np.diff(z)
        gap = float(steps.max() * grid.spacing_mm[2]) if len(steps) else 0.0
        return Course(start, centres, gap)


def from_sct(image: Path, contrast: str) -> Centreline:
    """Return the line that the Spinal Cord Toolbox finds; raise `TrainingError` where it is not installed or fails."""
    program = shutil.which(SCT)
    if program is None:
        raise TrainingError(f"{image}: no centreline, and {SCT} is not installed", hint=MASK_HINT)
    with tempfile.TemporaryDirectory(prefix="mreg-centreline-") as folder:
        target = Path(folder, "line.nii.gz")
        command = [program, "-i", str(image), "-c", contrast, "-method", "optic", "-o", str(target)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode or not target.is_file():
            said = (done.stderr or done.stdout).strip().splitlines()
            raise TrainingError(f"{image}: {SCT} failed: {said[-1] if said else done.returncode}", hint=MASK_HINT)
        found = Centreline.read(target)
    return Centreline(found.points_mm, SCT)


def _read_csv(path: Path) -> NDArray[np.float64]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
            points = np.array([[float(row[column]) for column in COLUMNS] for row in rows])
    except (OSError, UnicodeDecodeError) as error:
        raise TrainingError(f"{path}: cannot be read: {error}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise TrainingError(
            f"{path}: not a table of numbers with columns {','.join(COLUMNS)}",
            hint="SCT's CSV holds voxels, not mm: give the .nii.gz that it writes beside it",
        ) from error
    if not len(points) or not np.isfinite(points).all():
        raise TrainingError(f"{path}: no points, or some that are no numbers")
    return points
