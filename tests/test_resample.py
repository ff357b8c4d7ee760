"""Our separable resampling against the library that nnU-Net resamples with, on real images."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nilearn.datasets import load_mni152_brain_mask, load_mni152_template
from nnunetv2.preprocessing.resampling.default_resampling import compute_new_shape, resample_data_or_seg_to_shape

from trainers.data.resample import new_shape, resample_image, resample_labels, slice_axis

TARGETS = [(0.8, 0.8, 0.8), (1.5, 0.7, 1.2), (6.0, 0.9, 0.9), (2.0, 2.0, 2.0), (1.0, 1.3, 1.0)]


@pytest.fixture(scope="module")
def volume() -> tuple[np.ndarray, np.ndarray]:
    """Return a slab of the MNI152 template (unit variance) and tissue-like labels 0, 1, 2 on it."""
    image = load_mni152_template(resolution=2).get_fdata()[20:70, 30:70, 30:60].T.astype(np.float32)
    brain = load_mni152_brain_mask(resolution=2).get_fdata()[20:70, 30:70, 30:60].T
    labels = np.add(brain > 0, image > np.median(image), dtype=np.int16)
    assert set(np.unique(labels)) == {0, 1, 2}
    return (image - image.mean()) / image.std(), labels


def peer(array: np.ndarray, spacing, target, *, is_seg: bool) -> np.ndarray:
    shape = compute_new_shape(array.shape, spacing, target)
    return resample_data_or_seg_to_shape(
        array[None].astype(np.float32), shape, spacing, target,
        is_seg=is_seg, order=1 if is_seg else 3, order_z=0, force_separate_z=None,
    )[0]  # fmt: skip


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (5.0, 1.0, 1.0)])
def test_images_are_within_1e_5_of_nnunets_and_labels_within_a_voxel_in_ten_thousand(volume, spacing, target) -> None:
    image, labels = volume
    shape, axis = new_shape(image.shape, spacing, target), slice_axis(spacing, target)
    theirs = peer(image, spacing, target, is_seg=False)
    ours = resample_image(image, shape, axis)
    assert ours.shape == theirs.shape
    assert ours.dtype == np.float32
    assert np.abs(ours - theirs).max() < 1e-5
    theirs = peer(labels, spacing, target, is_seg=True)
    assert np.mean(resample_labels(labels, shape, axis) != theirs) <= 1e-4


@settings(deadline=None, max_examples=30)
@given(
    shape=st.tuples(*[st.integers(1, 12)] * 3),
    spacing=st.tuples(*[st.floats(0.3, 6)] * 3),
    target=st.tuples(*[st.floats(0.3, 6)] * 3),
    seed=st.integers(0, 1000),
)
def test_any_small_label_map_is_resampled_as_nnunet_does(shape, spacing, target, seed) -> None:
    # skimage's own nearest-neighbour and linear paths disagree with themselves by an ulp where a tie is not exact
    labels = np.random.default_rng(seed).integers(-1, 3, shape).astype(np.int16)
    wanted = new_shape(shape, spacing, target)
    if 0 in wanted:
        return
    assert wanted == tuple(compute_new_shape(shape, spacing, target))
    theirs = peer(labels, spacing, target, is_seg=True)
    ours = resample_labels(labels, wanted, slice_axis(spacing, target))
    assert ours.dtype == np.int16
    assert np.mean(ours != theirs) <= 0.02


def test_a_real_cord_keeps_every_label(test_data) -> None:
    folder = test_data / "fullfov"
    image = nib.load(folder / "sub-errsm21_T2w.nii.gz")
    labels = np.asarray(nib.load(folder / "sub-errsm21_T2w_label-SC_seg.nii.gz").dataobj).T.astype(np.int16)
    spacing = tuple(float(size) for size in image.header.get_zooms()[::-1])
    target = (0.8, 0.8, 0.8)
    theirs = peer(labels, spacing, target, is_seg=True)
    assert np.array_equal(resample_labels(labels, new_shape(labels.shape, spacing, target)), theirs)


def test_a_volume_of_the_wanted_shape_is_left_alone(volume) -> None:
    image, labels = volume
    assert np.array_equal(resample_image(image, image.shape), image)
    assert resample_labels(labels, labels.shape) is labels
