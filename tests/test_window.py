"""Windows that follow the cord and boxes around it: what they keep, lose and say, and the exact way back."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainers.data.grid import Grid
from trainers.data.window import Box, Following, crop_from_json

RPI = np.diag([-0.5, 0.5, 0.5, 1.0])
NO_PADS = dict.fromkeys(("left", "right", "anterior", "posterior", "inferior", "superior"), 0.0)


@st.composite
def cases(draw: st.DrawFn) -> tuple[Following, np.ndarray]:
    """Draw a window, perhaps larger than the image or with its centre outside, and a volume for it."""
    whole = draw(st.tuples(*[st.integers(1, 14)] * 3))
    first = draw(st.integers(0, whole[2] - 1))
    count = draw(st.integers(1, whole[2] - first))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    centres = rng.uniform(-4, 18, (count, 2))
    size = draw(st.tuples(*[st.integers(1, 16)] * 2))
    crop = Following.around(centres, first, size, whole, sct=draw(st.booleans()))
    return crop, rng.integers(1, 1000, whole)


@settings(deadline=None, max_examples=150)
@given(cases())
def test_what_a_window_cut_comes_back_and_the_rest_is_empty(case) -> None:
    crop, volume = case
    cut = crop.apply(volume)
    assert cut.shape == crop.shape
    assert cut.min() > 0  # nothing is filled with zeros
    back = crop_from_json(json.loads(json.dumps(crop.as_json()))).undo(cut)
    assert np.array_equal(back[back > 0], volume[back > 0])
    grid = Grid(crop.whole, RPI)
    assert crop.lost(volume > 0, grid).voxels == (back == 0).sum()
    kept = back > 0
    assert crop.lost(kept, grid).voxels == 0
    assert np.array_equal(crop.undo(crop.apply(kept)), kept)


def test_a_window_stays_in_the_image_and_around_its_centre() -> None:
    centres = np.array([[20.2, 31.0], [0.0, 5.0], [59.0, 70.0]])
    crop = Following.around(centres, 2, (48, 48), (60, 64, 8))
    assert crop.starts.tolist() == [[0, 8], [0, 0], [12, 16]]
    wide = Following.around(np.array([[30.0, 31.0], [30.5, 31.4], [30.49, 31.6]]), 0, (8, 8), (60, 64, 8))
    middles = wide.starts + 3.5
    assert np.abs(middles - [[30.0, 31.0], [30.5, 31.4], [30.49, 31.6]]).max() <= 0.5
    published = Following.around(np.array([[30.0, 31.0]]), 0, (48, 48), (60, 64, 8), sct=True)
    assert published.starts.tolist() == [[7, 8]]


def test_an_image_narrower_than_the_window_is_padded_alike_on_both_sides() -> None:
    volume = np.arange(46)[:, None, None] + np.ones((46, 50, 3), dtype=int)
    crop = Following.around(np.full((3, 2), 20.0), 0, (48, 48), volume.shape)
    cut = crop.apply(volume)
    assert crop.starts[0, 0] == -1
    assert cut[0, 0, 0] == cut[1, 0, 0] == 1
    assert cut[-1, 0, 0] == cut[-2, 0, 0] == 46
    assert np.array_equal(crop.undo(cut)[:, crop.starts[0, 1] : crop.starts[0, 1] + 48], volume[:, :48])


def test_what_is_lost_is_said_face_by_face() -> None:
    mask = np.zeros((40, 40, 10), dtype=bool)
    mask[2, 20, 5] = mask[20, 38, 5] = mask[20, 20, 9] = mask[20, 20, 4] = True
    crop = Following.around(np.full((5, 2), 20.0), 2, (16, 16), mask.shape)
    loss = crop.lost(mask, Grid(mask.shape, RPI))
    assert (loss.voxels, loss.of) == (3, 4)
    # RPI: x runs from right to left; the window spans 13 to 28 (centre 20.5, the nearest to 20)
    assert loss.mm == {"right": 5.5, "anterior": 5.0, "superior": 1.5}
    assert str(loss) == "3 of 4 voxels are outside: 5.5 mm right, 5.0 mm anterior, 1.5 mm superior"


@settings(deadline=None, max_examples=80)
@given(st.tuples(*[st.integers(1, 12)] * 3), st.integers(0, 2**32 - 1))
def test_a_box_keeps_its_voxels_where_they_were(whole, seed) -> None:
    rng = np.random.default_rng(seed)
    grid = Grid(whole, RPI)
    voxels = rng.uniform(0, np.asarray(whole) - 1, (4, 3))
    pads = {face: float(rng.uniform(0, 3)) for face in NO_PADS}
    box = Box.around(voxels, grid, pads)
    volume = rng.integers(1, 100, whole)
    cut = box.apply(volume)
    back = crop_from_json(json.loads(json.dumps(box.as_json()))).undo(cut)
    assert np.array_equal(back[back > 0], volume[back > 0])
    part = grid.part(box.start, box.shape)
    assert np.allclose(part.to_world(np.zeros((1, 3))), grid.to_world(np.asarray(box.start)[None]))
    nearest = np.round(voxels).astype(int)
    assert (back[tuple(nearest.T)] > 0).all()
    assert box.lost(volume > 0, grid).voxels == (back == 0).sum()


def test_a_box_is_wider_where_it_is_asked_for_in_any_orientation() -> None:
    for code in ("RPI", "LAS", "AIL", "SRA"):
        grid, _ = Grid((60, 60, 60), np.diag([1.0, 1.0, 1.0, 1.0])).oriented(code)
        pads = dict(NO_PADS, superior=7.0, left=3.0)
        box = Box.around(np.full((1, 3), 30.0), grid, pads)
        part, way = grid.part(box.start, box.shape).oriented("RPI")
        assert part.shape == (4, 1, 8)
        assert way is not None
        world = part.to_world(np.array([[3.0, 0, 7]])) - grid.to_world(np.full((1, 3), 30.0))
        assert np.allclose(world, [[-3, 0, 7]])


def test_wrong_shapes_and_empty_windows_are_refused() -> None:
    crop = Following.around(np.full((3, 2), 5.0), 0, (4, 4), (10, 10, 3))
    with pytest.raises(ValueError, match="shape"):
        crop.apply(np.zeros((9, 10, 3)))
    with pytest.raises(ValueError, match="was not cut"):
        crop.undo(np.zeros((4, 4, 2)))
    with pytest.raises(ValueError, match="slices"):
        Following.around(np.zeros((0, 2)), 0, (4, 4), (10, 10, 3))
    with pytest.raises(ValueError, match="no point"):
        Box.around(np.full((2, 3), 99.0), Grid((5, 5, 5), RPI), NO_PADS)
