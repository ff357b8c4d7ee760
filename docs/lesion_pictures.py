"""Draw the pictures of docs/lesion.md from the small real images: `python docs/lesion_pictures.py DATA`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from matplotlib.figure import Figure
from scipy import ndimage

from trainers.data.grid import Grid
from trainers.data.nifti import open_image, read_voxels
from trainers.data.regrid import resample_image, resample_mask
from trainers.lesion.chain import find_line, prepare
from trainers.lesion.config import GeometrySettings
from trainers.lesion.index import from_bids
from trainers.lesion.intensity import Standard, Tissue
from trainers.lesion.pictures import draw_sheet

IMAGES = Path(__file__).parent / "images"
SHOWN = "sub-errsm18_chunk-2_T2w"
FINE = (0.5, 0.5, 0.5)
COLOURS = ("#0072B2", "#D55E00", "#009E73")  # Okabe and Ito: told apart by colour-blind readers
SIDE = {"cmap": "gray", "origin": "lower", "interpolation": "nearest"}


def main(data: Path) -> None:
    """Draw both pictures."""
    settings = GeometrySettings.model_validate({})
    case = next(case for case in from_bids(data / "bids_lesion") if case.name == SHOWN)
    prepared = prepare(case, settings, find_line(case, settings))
    draw_sheet(IMAGES / "lesion-window.png", case, prepared.place, settings.margin)
    figure = Figure(figsize=(11, 8.5), layout="constrained")
    parts: Any = figure.subfigures(2, 2)
    thick = data / "bids_sc" / "sub-sctt2s" / "anat" / "sub-sctt2s_T2star.nii.gz"
    _slices(parts[0][0], thick)
    _letters(parts[0][1], case.image)
    _masks(parts[1][0], data / "bids_sc" / "derivatives" / "labels")
    _zeros(parts[1][1], prepared.image)
    figure.savefig(IMAGES / "lesion-pitfalls.png", dpi=90, metadata={"Software": None})


def _slices(figure: Any, path: Path) -> None:
    """Slices of 7.5 mm at 0.5 mm, with zeros and with edge values beyond the last centre."""
    figure.suptitle("slices of 7.5 mm: zeros beyond the last centre, and edge values", fontsize=10)
    image = open_image(path)
    oriented, way = Grid.of(image).oriented("RPI")
    volume, work = way.apply(read_voxels(path, image)).astype(float), oriented.spaced(FINE)
    zeros = ndimage.affine_transform(
        volume, np.diag(np.asarray(work.spacing_mm) / oriented.spacing_mm),
        offset=[places[0] for places in work.places_in(oriented)], output_shape=work.shape, order=1, mode="constant",
    )  # fmt: skip
    for axes, found in zip(figure.subplots(1, 2), (zeros, resample_image(volume, oriented, work)), strict=True):
        empty = int((~found.any(axis=(0, 1))).sum())
        axes.imshow(found[found.shape[0] // 2].T, **SIDE)
        axes.set_title(f"{empty} of {found.shape[2]} planes empty", fontsize=9)
        axes.set_axis_off()


def _letters(figure: Any, path: Path) -> None:
    """One array in RPI of either convention."""
    figure.suptitle("RPI: where axes start (SCT), and where they end (nibabel)", fontsize=10)
    image = open_image(path)
    grid = Grid.of(image)
    for axes, code, name in zip(figure.subplots(1, 2), ("RPI", "LAS"), ("meant", "read by the other"), strict=True):
        volume = grid.oriented(code)[1].apply(read_voxels(path, image))
        axes.imshow(volume[volume.shape[0] // 2].T, **SIDE)
        axes.set_title(name, fontsize=9)
        axes.set_axis_off()


def _masks(figure: Any, folder: Path) -> None:
    """Volume errors of cord masks that become twice as fine, by the threshold that is written."""
    axes = figure.subplots()
    ways = {"> 0.5": lambda v: v > 0.5, ">= 0.5": lambda v: v >= 0.5, ">= 0.1": lambda v: v >= 0.1}  # noqa: PLR2004
    errors: dict[str, list[float]] = {name: [] for name in (*ways, "here")}
    for path in sorted(folder.glob("sub-*/anat/*chunk-?_T2w_label-SC_seg.nii.gz")):
        image = nib.load(path)
        grid, mask = Grid.of(image), np.asarray(image.dataobj) > 0
        shifted, work = grid.spaced(FINE, "sct"), grid.spaced(FINE)
        wanted = mask.sum() * grid.voxel_mm3
        blurred = resample_image(mask.astype(np.float32), grid, shifted)
        for name, way in ways.items():
            errors[name].append(100 * (way(blurred).sum() * shifted.voxel_mm3 / wanted - 1))
        errors["here"].append(100 * (resample_mask(mask, grid, work).sum() * work.voxel_mm3 / wanted - 1))
    bars = axes.bar(list(errors), [float(np.mean(values)) for values in errors.values()], color=COLOURS[0])
    axes.bar_label(bars, fmt="%+.1f", padding=2)
    axes.margins(y=0.15)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_ylabel("volume error (%)")
    axes.set_title("a mask of 1 mm at 0.5 mm, by threshold", fontsize=10)


def _zeros(figure: Any, image: np.ndarray) -> None:
    """What empty slices do to landmarks."""
    axes = figure.subplots()
    standard, ramp = Standard.published("sct-t2"), np.linspace(image.min(), np.percentile(image, 99.9), 400)
    for share, colour, line in zip((0, 0.1, 0.3), COLOURS, ("-", "--", "-."), strict=True):
        padded = np.concatenate([image.ravel(), np.zeros(int(share / (1 - share) * image.size), dtype=np.float32)])
        found = standard.apply(ramp.astype(np.float32), Tissue.of(padded.astype(np.float32)))
        axes.plot(ramp, found, line, color=colour, label=f"{share:.0%} of the slices empty")
    axes.set_xlabel("intensity in the image (scanner's units)")
    axes.set_ylabel("standardised intensity")
    axes.legend(fontsize=8)
    axes.set_title("the same tissue, after landmarks that saw zeros", fontsize=10)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
