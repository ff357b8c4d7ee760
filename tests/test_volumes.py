"""Reading NIfTI files to the last byte: whole, damaged and strange ones."""

from __future__ import annotations

import gzip
import warnings

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry import orientation
from registry.errors import IntegrityError
from registry.volumes import displacement_mm, grid_difference, read_series, read_volume, write_volume

AFFINE = np.array([[-1.0, 0, 0, 10], [0, 2, 0, -20], [0, 0, 3, 30], [0, 0, 0, 1]])
ARRAY = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)


def content_of(array=ARRAY, affine=AFFINE, kind=nib.Nifti1Image, header=None) -> bytes:
    image = kind(array, affine, header)
    image.set_qform(image.affine, 1)
    return image.to_bytes()


@pytest.fixture
def read(tmp_path):
    """Write bytes as a file and read it."""

    def call(content: bytes, name: str = "image.nii.gz"):
        path = tmp_path / name
        path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
        return read_volume(path)

    return call


@pytest.mark.parametrize("name", ["image.nii.gz", "image.nii"])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_both_versions_are_read_compressed_or_not(read, kind, name) -> None:
    volume = read(content_of(kind=kind), name)
    assert np.array_equal(volume.array, ARRAY)
    assert volume.array.dtype == np.int16
    assert np.allclose(volume.affine, AFFINE)
    assert volume.located
    assert volume.forms_off_mm < 1e-4


def test_the_other_byte_order_is_read(read) -> None:
    header = nib.Nifti1Header(endianness=">")
    header.set_data_dtype(np.int16)
    assert np.array_equal(read(content_of(header=header)).array, ARRAY)


def test_every_cut_and_a_wrong_checksum_are_noticed(tmp_path) -> None:
    whole = gzip.compress(content_of())
    path = tmp_path / "image.nii.gz"
    for length in (0, 5, 100, len(whole) // 2, len(whole) - 8, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(IntegrityError, match="cannot be read"):
            read_volume(path)
    path.write_bytes(whole[:-8] + bytes([whole[-8] ^ 1]) + whole[-7:])
    with pytest.raises(IntegrityError, match="CRC"):
        read_volume(path)


def test_a_header_that_promises_too_much_costs_no_memory(read) -> None:
    content = bytearray(content_of())
    content[42:48] = np.array([32000, 32000, 32000], dtype="<i2").tobytes()
    with pytest.raises(IntegrityError, match="cut short"):
        read(bytes(content))


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.zeros((4, 5, 6), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")]), "expected numbers"),
        (np.zeros((4, 5, 6), dtype=np.complex64), "expected numbers"),
        (np.zeros((4, 5), dtype=np.int16), "three dimensions"),
        (np.zeros((4, 5, 6, 2), dtype=np.int16), "expected one volume"),
    ],
)
def test_what_is_no_volume_of_numbers_is_refused(read, array, said) -> None:
    with pytest.raises(IntegrityError, match=said):
        read(content_of(array=array))


def test_a_fourth_axis_of_length_one_is_dropped(read) -> None:
    assert np.array_equal(read(content_of(array=ARRAY[..., None])).array, ARRAY)


def test_a_series_is_read_as_its_volumes(tmp_path) -> None:
    path = tmp_path / "series.nii.gz"
    path.write_bytes(gzip.compress(content_of(array=np.stack([ARRAY, ARRAY + 1], axis=3))))
    first, second = read_series(path, 2)
    assert np.array_equal(first.array, ARRAY)
    assert np.array_equal(second.array, ARRAY + 1)
    with pytest.raises(IntegrityError, match="expected 3 volumes"):
        read_series(path, 3)


@pytest.mark.parametrize("row", [[0, 0, 0, 0], [np.nan, 0, 0, 0], [1e30, 0, 0, 0], [1, 0, 0, np.inf]])
def test_an_affine_that_is_no_geometry_is_refused(read, row) -> None:
    content = bytearray(content_of())
    content[280:296] = np.array(row, dtype="<f4").tobytes()  # srow_x
    with pytest.raises(IntegrityError, match="no geometry"):
        read(bytes(content))


def test_what_the_header_says_of_its_place_is_told(read) -> None:
    image = nib.Nifti1Image(ARRAY, AFFINE)
    image.set_qform(AFFINE + np.diag([0, 0, 0.5, 0]), 1)
    assert read(image.to_bytes()).forms_off_mm == pytest.approx(2.5, abs=1e-3)
    image.header["sform_code"] = image.header["qform_code"] = 0
    content = bytearray(image.to_bytes())
    content[252:256] = bytes(4)  # nibabel writes the affine it guessed back into the header
    assert not read(bytes(content)).located


def test_writing_keeps_voxels_type_and_place(tmp_path) -> None:
    path = tmp_path / "image.nii.gz"
    for kind in (np.uint8, np.int16, np.int64, np.uint64, np.float32, np.float64):
        write_volume(path, ARRAY.astype(kind), AFFINE)
        volume = read_volume(path)
        assert volume.array.dtype == kind
        assert np.array_equal(volume.array, ARRAY.astype(kind))
        assert displacement_mm(ARRAY.shape, volume.affine, AFFINE) < 1e-4


def test_two_grids_are_one_while_programs_only_round_differently() -> None:
    tilt = np.eye(4)
    tilt[0, 1] = 1e-4  # over 300 voxels 0.03 mm
    shape = (300, 300, 30)
    assert not grid_difference(shape, AFFINE @ tilt, shape, AFFINE)
    tilt[0, 1] = 1e-2
    assert "3 mm away" in grid_difference(shape, AFFINE @ tilt, shape, AFFINE).replace("2.99 mm", "3 mm")
    assert "voxels, not" in grid_difference((300, 300, 29), AFFINE, shape, AFFINE)


@settings(deadline=None, max_examples=150)
@given(
    edits=st.lists(st.tuples(st.integers(0, 351), st.integers(0, 255)), min_size=1, max_size=5),
    length=st.none() | st.integers(0, 592),
)
def test_a_damaged_header_is_one_error_or_a_volume_that_can_be_turned(tmp_path_factory, edits, length) -> None:
    content = bytearray(content_of())
    for place, value in edits:
        content[place] = value
    path = tmp_path_factory.getbasetemp() / "damaged.nii"
    path.write_bytes(content[:length])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # nibabel doubts the length of an extension
        try:
            volume = read_volume(path)
        except IntegrityError:
            return
    turned, affine = orientation.reorient(volume.array, volume.affine, "RPI")
    assert turned.size == volume.array.size
    assert orientation.of_affine(affine) == "RPI"
