"""Centrelines: from masks, tables and SCT, with gaps, ends and what cannot be used."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from trainers.core.errors import TrainingError
from trainers.data.grid import Grid
from trainers.lesion.centreline import Centreline, from_sct

AIL = np.array([[0, 0, -1.0, 30], [-1, 0, 0, 40], [0, 1, 0, -50], [0, 0, 0, 1]])


def tube(length: int = 40, bend: float = 0.004) -> tuple[np.ndarray, Grid, np.ndarray]:
    """Return a bent cord's mask in AIL at 1 mm, its grid and its true centres in mm, one a slice."""
    grid = Grid((50, length, 30), AIL)
    a, i, l = np.meshgrid(*map(np.arange, grid.shape), indexing="ij")  # noqa: E741
    centre_a, centre_l = 25 + bend * (i - length / 2) ** 2, 15 + 0.05 * i
    mask = (a - centre_a) ** 2 + (l - centre_l) ** 2 < 25
    slices = np.arange(length)
    truth = np.column_stack([25 + bend * (slices - length / 2) ** 2, slices, 15 + 0.05 * slices])
    return mask, grid, grid.to_world(truth.astype(float))


def working(grid: Grid) -> Grid:
    return grid.oriented("RPI")[0].spaced((0.5, 0.5, 0.5))


def test_a_mask_gives_its_axis_within_a_fraction_of_a_voxel() -> None:
    mask, grid, truth = tube()
    line = Centreline.of_mask(mask, grid)
    assert len(line.points_mm) == 40
    gaps = np.linalg.norm(truth[:, None] - line.points_mm[None], axis=2).min(axis=1)
    assert gaps.max() < 0.5
    course = line.along(working(grid), hold_mm=0)
    assert len(course.centres) == 78  # half-millimetre slices between the first one's centre and the last one's
    assert np.abs(np.diff(course.centres, axis=0)).max() < 0.5


def test_gaps_are_bridged_ends_are_held_for_a_while_and_specks_do_not_pull() -> None:
    mask, grid, _ = tube(60)
    whole = Centreline.of_mask(mask, grid).along(working(grid), hold_mm=100)
    assert whole.slices == slice(0, 120)
    mask[:, 20:30] = False
    mask[:, :6] = False
    mask[2:4, 40, 2:4] = True
    found = Centreline.of_mask(mask, grid).along(working(grid), hold_mm=3)
    assert found.gap_mm == pytest.approx(11)
    assert found.slices == slice(7, 120)  # the first centre of the mask lies at 12.5, 3 mm are 6 slices
    assert np.abs(found.centres - whole.centres[7:]).max() < 1.5


def test_a_line_on_any_grid_serves_an_image_on_another() -> None:
    mask, grid, _ = tube()
    fine = Grid((100, 40, 60), grid.affine @ np.diag([0.5, 1, 0.5, 1]))
    doubled = np.kron(mask, np.ones((2, 1, 2), dtype=bool))
    first, second = (Centreline.of_mask(m, g).along(working(grid), 2) for m, g in ((mask, grid), (doubled, fine)))
    assert first.slices == second.slices
    assert np.abs(first.centres - second.centres).max() < 0.6


def test_points_go_through_a_table_and_wrong_tables_are_refused(tmp_path: Path) -> None:
    mask, grid, _ = tube()
    line = Centreline.of_mask(mask, grid)
    line.write(tmp_path / "line.csv")
    assert np.allclose(Centreline.read(tmp_path / "line.csv").points_mm, line.points_mm, atol=1e-4)
    nib.save(nib.Nifti1Image(mask.astype(np.uint8), grid.affine), tmp_path / "cord.nii.gz")
    assert np.allclose(Centreline.read(tmp_path / "cord.nii.gz").points_mm, line.points_mm)
    for text in ("1,2,3\n4,5,6\n", "x_mm,y_mm,z_mm\n1,2,a\n", "x_mm,y_mm,z_mm\n", "x_mm,y_mm,z_mm\n1,2,nan\n"):
        (tmp_path / "bad.csv").write_text(text)
        with pytest.raises(TrainingError, match=r"bad\.csv"):
            Centreline.read(tmp_path / "bad.csv")


def test_an_empty_mask_and_a_line_elsewhere_are_one_clear_error() -> None:
    mask, grid, _ = tube()
    with pytest.raises(TrainingError, match="the cord mask is empty"):
        Centreline.of_mask(np.zeros_like(mask), grid, "cord.nii.gz")
    away = Centreline(np.array([[500.0, 0, 0], [500, 0, 10]]), "line.csv")
    with pytest.raises(TrainingError, match=r"line\.csv\) lies outside of the image"):
        away.along(working(grid), 10)


def test_sct_is_used_where_it_is_installed_and_named_where_it_is_not(tmp_path, monkeypatch) -> None:
    mask, grid, _ = tube()
    image = tmp_path / "image.nii.gz"
    nib.save(nib.Nifti1Image(mask.astype(np.uint8), grid.affine), image)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(TrainingError, match="sct_get_centerline is not installed"):
        from_sct(image, "t2")
    program = tmp_path / "sct_get_centerline"  # takes SCT's flags; its line is the image itself
    program.write_text('#!/bin/sh\n[ "$3 $4 $5 $6" = "-c t2 -method optic" ] && /bin/cp "$2" "$8"\n')
    program.chmod(0o755)
    assert np.array_equal(from_sct(image, "t2").points_mm, Centreline.read(image).points_mm)
    with pytest.raises(TrainingError, match="sct_get_centerline failed"):
        from_sct(image, "t1")


def test_real_centrelines_agree_with_those_of_the_data_set(test_data: Path) -> None:
    folder = test_data / "bids_lesion" / "derivatives" / "labels"
    paths = sorted(folder.glob("sub-*/anat/*_label-SC_seg.nii.gz"))
    assert len(paths) == 13
    for path in paths:
        image = nib.load(path)
        grid = working(Grid.of(image))
        ours = Centreline.read(path).along(grid, 1)
        theirs = Centreline.read(path.with_name(path.name.replace("SC_seg", "centerline_label"))).along(grid, 1)
        assert ours.slices == theirs.slices
        assert np.linalg.norm(ours.centres - theirs.centres, axis=1).mean() * 0.5 < 0.5
