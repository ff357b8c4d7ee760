"""Grids: orientation in both conventions, spacing, and what resampling keeps."""

from __future__ import annotations

import itertools
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from registry import orientation as light
from trainers.data.grid import Grid
from trainers.data.orientation import OPPOSITE, to_nibabel
from trainers.data.regrid import resample_image, resample_mask, resample_probability

CODES = [
    "".join(letters)
    for axes in itertools.permutations(("RL", "AP", "IS"))
    for letters in itertools.product(*axes)
]  # fmt: skip
HALF = (0.5, 0.5, 0.5)


@st.composite
def grids(draw: st.DrawFn) -> Grid:
    """Draw a grid: any orientation, odd and even sizes, thick slices, up to 30 degrees off the scanner's axes."""
    code = draw(st.sampled_from(CODES))
    shape = draw(st.tuples(*[st.integers(2, 13)] * 3))
    spacing = draw(st.tuples(*[st.sampled_from([0.3, 0.5, 0.8, 1.0, 1.7])] * 2, st.sampled_from([0.9, 2.7, 7.5])))
    thick = draw(st.integers(0, 2))
    spacing = np.roll(spacing, thick)
    x, y, z = np.deg2rad(draw(st.tuples(*[st.floats(-25, 25)] * 3)))
    turns = [
        np.array([[1, 0, 0], [0, np.cos(x), -np.sin(x)], [0, np.sin(x), np.cos(x)]]),
        np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]]),
        np.array([[np.cos(z), -np.sin(z), 0], [np.sin(z), np.cos(z), 0], [0, 0, 1]]),
    ]
    axes = np.zeros((3, 3))
    for axis, letter in enumerate(to_nibabel(code)):
        row = next(number for number, pair in enumerate(("RL", "AP", "IS")) if letter in pair)
        axes[row, axis] = 1 if letter in "RAS" else -1
    affine = np.eye(4)
    affine[:3, :3] = turns[0] @ turns[1] @ turns[2] @ axes @ np.diag(spacing)
    affine[:3, 3] = draw(st.tuples(*[st.floats(-200, 200)] * 3))
    return Grid(shape, affine)


def test_both_halves_read_the_same_letters() -> None:
    assert len(set(CODES)) == 48
    for code in CODES:
        assert to_nibabel(to_nibabel(code)) == code
        assert light.to_nibabel(code) == to_nibabel(code)
        affine = nib.orientations.inv_ornt_aff(nib.orientations.axcodes2ornt(to_nibabel(code)), (4, 5, 6))
        turned = Grid((4, 5, 6), np.asarray(affine)).orientation
        assert turned == light.of_affine(np.asarray(affine))
    assert set(OPPOSITE) == set("RLAPIS")


@settings(deadline=None, max_examples=60)
@given(grids(), st.sampled_from(CODES))
def test_an_oriented_grid_has_every_voxel_where_it_was(grid: Grid, code: str) -> None:
    new, way = grid.oriented(code)
    assert new.orientation == code
    volume = np.arange(np.prod(grid.shape)).reshape(grid.shape)
    turned = way.apply(volume)
    assert turned.shape == new.shape
    assert np.array_equal(way.undo(turned), volume)
    back, _ = new.oriented(grid.orientation)
    assert back.same_as(grid, 1e-6)
    voxels = np.array(np.unravel_index(turned.ravel(), grid.shape)).T
    where = np.array(np.unravel_index(np.arange(turned.size), new.shape)).T
    assert np.allclose(grid.to_world(voxels), new.to_world(where), atol=1e-6)


@settings(deadline=None, max_examples=60)
@given(grids())
def test_a_spaced_grid_is_exact_and_stays_around_its_centre(grid: Grid) -> None:
    new = grid.spaced(HALF)
    assert np.allclose(new.spacing_mm, 0.5, rtol=0, atol=1e-9)
    middles = [g.to_world((np.asarray(g.shape) - 1)[None] / 2) for g in (grid, new)]
    assert np.allclose(*middles, atol=1e-6)
    extent = np.asarray(grid.shape) * grid.spacing_mm
    assert np.abs(np.asarray(new.shape) * 0.5 - extent).max() <= max(0.25, 0.5 - extent.min()) + 1e-9


@settings(deadline=None, max_examples=40)
@given(grids(), st.sampled_from(["centre", "sct"]))
def test_no_plane_is_empty_after_resampling_and_a_constant_stays_one(grid: Grid, alignment: str) -> None:
    new = grid.spaced(HALF, alignment)
    found = resample_image(np.full(grid.shape, 7, dtype=np.int16), grid, new)
    assert found.dtype == np.float32
    assert np.array_equal(found, np.full(new.shape, 7, dtype=np.float32))


@settings(deadline=None, max_examples=40)
@given(grids(), st.integers(0, 2**32 - 1))
def test_a_mask_keeps_its_volume_and_its_place(grid: Grid, seed: int) -> None:
    rng = np.random.default_rng(seed)
    new = grid.spaced(HALF)
    mask = ndimage.gaussian_filter(rng.normal(size=grid.shape), 1.5) > 0
    found = resample_mask(mask, grid, new)
    wanted = mask.sum() * grid.voxel_mm3
    parts = ndimage.label(mask, np.ones((3, 3, 3)))[1]
    view = abs(np.prod(new.shape) * new.voxel_mm3 - np.prod(grid.shape) * grid.voxel_mm3)
    # beyond 1 %: rounding, a voxel for each part that is smaller than one, and what the field of view changed
    assert abs(found.sum() * new.voxel_mm3 - wanted) <= 0.01 * wanted + (parts + 1) * new.voxel_mm3 + view
    if mask.any() and wanted > 20 * new.voxel_mm3:
        centres = [g.to_world(np.argwhere(m).mean(0)[None]) for g, m in ((grid, mask), (new, found))]
        assert np.linalg.norm(centres[0] - centres[1]) <= 0.6 * max(0.5, *grid.spacing_mm)


def test_small_lesions_keep_their_volume_together_and_none_vanishes() -> None:
    grid = Grid((40, 40, 40), np.diag([0.8, 0.8, 0.8, 1]))
    mask = np.zeros(grid.shape, dtype=bool)
    mask[2::6, 2::6, 2::6] = True
    new = grid.spaced(HALF)
    found = resample_mask(mask, grid, new)
    assert found.sum() * 0.125 == pytest.approx(mask.sum() * 0.512, rel=0.001)
    assert ndimage.label(found, np.ones((3, 3, 3)))[1] == mask.sum()
    fine = Grid((40, 40, 40), np.diag([0.3, 0.3, 0.3, 1]))
    found = resample_mask(mask, fine, fine.spaced(HALF))
    assert ndimage.label(found, np.ones((3, 3, 3)))[1] == mask.sum()


def test_twice_as_fine_nothing_is_decided_by_a_tie() -> None:
    """With `> 0.5` and `>= 0.5` the same mask gains or loses 9 % on SCT's grid."""
    grid = Grid((20, 20, 20), np.eye(4))
    mask = np.zeros(grid.shape, dtype=bool)
    mask[5:11, 6:12, 4:15] = True
    for alignment in ("centre", "sct"):
        assert resample_mask(mask, grid, grid.spaced(HALF, alignment)).sum() == 8 * mask.sum()
    assert np.array_equal(resample_mask(mask, grid, grid.spaced(HALF)), np.kron(mask, np.ones((2, 2, 2))))


@settings(deadline=None, max_examples=40)
@given(grids(), st.integers(0, 2**32 - 1))
def test_a_probability_comes_back_with_its_volume(grid: Grid, seed: int) -> None:
    new = grid.spaced(HALF)
    rng = np.random.default_rng(seed)
    found = resample_probability(rng.random(new.shape, dtype=np.float32), new, grid)
    assert found.shape == grid.shape
    assert 0 <= found.min() <= found.max() <= 1 + 1e-6
    inside = resample_probability(np.ones(new.shape, dtype=np.float32), new, grid)[1:-1, 1:-1, 1:-1]
    assert np.allclose(inside, 1, atol=1e-5)


def test_grids_with_other_axes_are_refused() -> None:
    grid = Grid((4, 4, 4), np.eye(4))
    with pytest.raises(ValueError, match="do not share their axes"):
        resample_image(np.zeros((4, 4, 4)), grid, grid.oriented("RPI")[0])


def test_the_sct_grid_is_the_one_that_was_measured() -> None:
    grid = Grid((29, 99, 99), np.diag([0.8, 0.8, 0.8, 1]))
    new = grid.spaced(HALF, "sct")
    assert new.shape == (46, 158, 158)
    assert np.allclose(new.spacing_mm, (0.50435, 0.50127, 0.50127), atol=1e-5)
    assert np.array_equal(new.affine[:3, 3], grid.affine[:3, 3])


@pytest.mark.parametrize("name", ["bids_lesion", "bids_sc"])
def test_real_masks_keep_their_volume_and_place_on_the_centred_grid(test_data: Path, name: str) -> None:
    paths = sorted((test_data / name).glob("derivatives/labels/sub-*/anat/*_seg.nii.gz"))
    assert len(paths) >= 13
    for path in paths:
        image = nib.load(path)
        grid = Grid.of(image)
        if 1 in grid.shape:
            continue
        mask = np.asarray(image.dataobj).reshape(grid.shape) > 0
        new = grid.spaced(HALF)
        found = resample_mask(mask, grid, new)
        wanted = mask.sum() * grid.voxel_mm3
        assert found.sum() * 0.125 == pytest.approx(wanted, rel=0.01, abs=1e-9), path.name
        back = resample_probability(found.astype(np.float32), new, grid) >= 0.5
        if mask.any():
            assert 2 * (back & mask).sum() / (back.sum() + mask.sum()) >= 0.95, path.name
            shift = grid.to_world(np.argwhere(mask).mean(0)[None]) - new.to_world(np.argwhere(found).mean(0)[None])
            assert np.linalg.norm(shift) < max(0.1, 0.06 * max(grid.spacing_mm)), path.name


def test_real_images_have_no_empty_plane(test_data: Path) -> None:
    for path in sorted(test_data.glob("bids_*/sub-*/anat/*.nii.gz"))[::3]:
        image = nib.load(path)
        grid = Grid.of(image)
        found = resample_image(np.asarray(image.dataobj).reshape(grid.shape), grid, grid.spaced(HALF))
        before = np.asarray(image.dataobj).reshape(grid.shape)
        for axis in range(3):
            others = tuple(a for a in range(3) if a != axis)
            if before.any(axis=others).all():
                assert found.any(axis=others).all(), (path.name, axis)
