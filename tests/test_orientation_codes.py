"""The 48 orientation codes in the two conventions, and turning a volume from one into another."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry import orientation

CODES = json.loads((Path(__file__).parent / "data" / "naming" / "orientations.json").read_text())["codes"]
AXES = {"R": 0, "L": 0, "A": 1, "P": 1, "I": 2, "S": 2}
TOWARDS_POSITIVE = "LPI"  # a voxel axis that starts at one of these sides goes along x, y or z


def affine_of(code: str, spacing=(1.0, 2.0, 3.0), tilts=(0.0, 0.0, 0.0)) -> np.ndarray:
    """Build the affine of a grid by hand: its axes start at the sides of `code`, then it is tilted (radians)."""
    directions = np.zeros((3, 3))
    for axis, letter in enumerate(code):
        directions[AXES[letter], axis] = 1 if letter in TOWARDS_POSITIVE else -1
    turn = np.eye(3)
    for number, angle in enumerate(tilts):
        first, second = [axis for axis in range(3) if axis != number]
        one = np.eye(3)
        one[[first, second], [first, second]] = np.cos(angle)
        one[first, second], one[second, first] = -np.sin(angle), np.sin(angle)
        turn = turn @ one
    affine = np.eye(4)
    affine[:3, :3] = turn @ directions @ np.diag(spacing)
    affine[:3, 3] = (-90.5, 126.25, -72.0)
    return affine


codes = st.sampled_from(sorted(CODES))
grids = st.builds(affine_of, codes, st.tuples(*[st.floats(0.3, 9)] * 3), st.tuples(*[st.floats(-0.35, 0.35)] * 3))


def test_all_48_codes_convert_both_ways() -> None:
    assert len(CODES) == 48
    for sct, nibabel in CODES.items():
        assert orientation.is_valid(sct)
        assert orientation.to_nibabel(sct) == nibabel
        assert orientation.from_nibabel(nibabel) == sct
        assert orientation.to_nibabel(orientation.to_nibabel(sct)) == sct


def test_a_code_is_printed_in_both_conventions() -> None:
    assert orientation.describe("RPI") == "RPI (SCT; nibabel LAS)"


def test_every_code_is_told_from_its_affine() -> None:
    for code, nibabel in CODES.items():
        assert orientation.of_affine(affine_of(code)) == code
        assert "".join(nib.aff2axcodes(affine_of(code))) == nibabel
    assert orientation.of_affine(np.eye(4)) == "LPI"
    assert orientation.of_affine(np.diag([-1.0, 1, 1, 1])) == "RPI"


@pytest.mark.parametrize("code", ["", "RP", "rpi", "RPIS", "RRI", "XYZ", "RPI ", ["R", "P", "I"], None, 3])
def test_what_is_no_orientation_is_told(code: object) -> None:
    assert not orientation.is_valid(code)


def test_from_every_code_to_every_other_and_back_restores_the_volume() -> None:
    array = np.arange(2 * 3 * 4).reshape(2, 3, 4)
    for start, end in itertools.product(CODES, CODES):
        affine = affine_of(start, tilts=(0.2, -0.1, 0.3))
        there, there_affine = orientation.reorient(array, affine, end)
        assert orientation.of_affine(there_affine) == end
        back, back_affine = orientation.reorient(there, there_affine, start)
        assert np.array_equal(back, array)
        assert np.array_equal(back_affine[:3, :3], affine[:3, :3])  # to the last bit
        assert np.allclose(back_affine, affine, rtol=0, atol=1e-12)


@settings(deadline=None, max_examples=60)
@given(affine=grids, code=codes, shape=st.tuples(*[st.integers(1, 5)] * 3))
def test_every_voxel_stays_where_it_was(affine, code, shape) -> None:
    array = np.arange(np.prod(shape)).reshape(shape)
    turned, turned_affine = orientation.reorient(array, affine, code)
    assert orientation.of_affine(turned_affine) == code
    assert sorted(turned.ravel()) == sorted(array.ravel())
    for value in (0, array.size // 2, array.size - 1):
        before, after = (np.argwhere(volume == value)[0] for volume in (array, turned))
        assert np.allclose(turned_affine @ [*after, 1], affine @ [*before, 1])
