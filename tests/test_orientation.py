"""Turning volumes to a model's orientation and back."""

import itertools

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainers.data.orientation import OPPOSITE, Reorientation, of_affine

CODES = [
    "".join(letters) for order in itertools.permutations(("RL", "AP", "IS")) for letters in itertools.product(*order)
]


def affine(code: str, spacing=(1.0, 2.0, 3.0), tilt=0.0):
    """Return the affine of a grid whose axes start at the sides of `code`, tilted by some radians."""
    ends = nib.orientations.axcodes2ornt([OPPOSITE[letter] for letter in code])
    directions = np.zeros((3, 3))
    for axis, (world, sign) in enumerate(ends):
        directions[int(world), axis] = sign
    turn = np.array([[1, 0, 0], [0, np.cos(tilt), -np.sin(tilt)], [0, np.sin(tilt), np.cos(tilt)]])
    result = np.eye(4)
    result[:3, :3] = turn @ directions @ np.diag(spacing)
    result[:3, 3] = (-20, 7, 3)
    return result


grids = st.builds(affine, st.sampled_from(CODES), st.tuples(*[st.floats(0.3, 9)] * 3), st.floats(-0.3, 0.3))


def test_there_are_48_orientations_and_each_is_told_from_its_affine():
    assert len(set(CODES)) == 48
    assert all(of_affine(affine(code)) == code for code in CODES)


@settings(deadline=None, max_examples=60)
@given(grid=grids, code=st.sampled_from(CODES))
def test_undo_is_the_inverse_of_apply(grid, code):
    volume = np.arange(2 * 3 * 4).reshape(2, 3, 4)
    way = Reorientation.to(code, grid)
    assert np.array_equal(way.undo(way.apply(volume)), volume)


@settings(deadline=None, max_examples=60)
@given(grid=grids, code=st.sampled_from(CODES))
def test_apply_gives_what_nibabel_gives(grid, code):
    image = nib.Nifti1Image(np.arange(2 * 3 * 4, dtype=np.int16).reshape(2, 3, 4), grid)
    ends = nib.orientations.axcodes2ornt([OPPOSITE[letter] for letter in code])
    theirs = image.as_reoriented(nib.orientations.ornt_transform(nib.io_orientation(grid), ends))
    way = Reorientation.to(code, grid)
    assert np.array_equal(way.apply(np.asarray(image.dataobj)), np.asarray(theirs.dataobj))
    assert of_affine(theirs.affine) == code
    assert way.spacing(image.header.get_zooms()) == pytest.approx(theirs.header.get_zooms())


@pytest.mark.parametrize("code", ["", "RAS+", "RPIS", "RLI", "rpi", "XYZ", "RP"])
def test_what_is_no_orientation_is_refused(code):
    with pytest.raises(ValueError, match="not an orientation"):
        Reorientation.to(code, np.eye(4))


def test_a_grid_without_depth_is_refused():
    with pytest.raises(ValueError, match="column of zeros"):
        Reorientation.to("RPI", np.diag([1.0, 1.0, 0.0, 1.0]))
