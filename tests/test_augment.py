"""Our augmentation against batchgeneratorsv2's transforms, parameter by parameter, on a real image."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from batchgeneratorsv2.transforms.intensity.contrast import ContrastTransform
from batchgeneratorsv2.transforms.intensity.gamma import GammaTransform
from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
from batchgeneratorsv2.transforms.spatial.low_resolution import SimulateLowResolutionTransform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.utils.pseudo2d import Convert2DTo3DTransform, Convert3DTo2DTransform
from nilearn.datasets import load_mni152_brain_mask, load_mni152_template

from trainers.data.augment import Augmentation, Source, augment

PATCH = (24, 33, 28)
SOURCE = (40, 41, 44)
OFF = {
    f"p_{name}": 0.0
    for name in (
        "rotation", "scaling", "noise", "blur", "brightness", "contrast", "low_resolution", "inverted_gamma", "gamma",
    )
} | {"mirror": ()}  # fmt: skip


@pytest.fixture(scope="module")
def source() -> tuple[torch.Tensor, torch.Tensor]:
    """Return two channels and labels -1 (beyond the image), 0, 1, 2 of a slab of the MNI152 template."""
    z, y, x = (slice(a, a + size) for a, size in zip((24, 30, 28), SOURCE, strict=True))
    image = load_mni152_template(resolution=2).get_fdata().T[z, y, x].astype(np.float32)
    brain = load_mni152_brain_mask(resolution=2).get_fdata().T[z, y, x] > 0
    image = (image - image.mean()) / image.std()
    labels = np.add(brain, image > 0.5, dtype=np.int16)
    labels[:12] = -1
    assert set(np.unique(labels)) == {-1, 0, 1, 2}
    return torch.from_numpy(np.stack([image, image[:, ::-1].copy()])), torch.from_numpy(labels[None])


def ours(source, augmentation: Augmentation, seed: int = 1, beyond: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Augment one sample that is cut out of the source as a loader would cut it.

    The first `beyond` planes of the source lie beyond the image: a loader does not read them.
    """
    image, labels = source
    draw = augmentation.draw(np.random.default_rng(seed), len(image))
    box = draw.source_box(augmentation.patch, image.shape[1:])
    box[0] = (max(box[0][0], beyond), box[0][1])
    part = (slice(None), *(slice(*edges) for edges in box))
    cut = Source(
        image=image[part].clone(),
        labels=labels[part].clone(),
        corner=tuple(low for low, _ in box),
        whole=tuple(image.shape[1:]),
    )
    images, found = augment([cut], [draw], augmentation, torch.Generator().manual_seed(seed))
    return images[0], found[0]


def spatial(patch=PATCH, **settings) -> SpatialTransform:
    """Return nnU-Net's spatial transform with fixed parameters."""
    return SpatialTransform(
        patch, patch_center_dist_from_border=0, random_crop=False, p_synchronize_scaling_across_axes=1,
        border_mode_seg="constant", padding_value_seg=-1, **settings,
    )  # fmt: skip


def apply(transform, image, labels=None):
    data = {"image": image.clone()} | ({"segmentation": labels.clone()} if labels is not None else {})
    done = transform(**data)
    return done["image"], done.get("segmentation")


def fixed(name: str, value) -> dict:
    return {**OFF, "patch": SOURCE, f"p_{name}": 1.0, name: (value, value)}


def test_without_a_transform_the_patch_is_the_middle_of_the_source(source) -> None:
    wanted = apply(spatial(), *source)
    found = ours(source, Augmentation(patch=PATCH, **OFF))
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


@pytest.mark.parametrize("angle", [0.3, -0.5, math.pi / 2])
@pytest.mark.parametrize("scale", [0.7, 1.0, 1.4])
def test_turned_and_scaled_patches_are_nnunets(source, angle, scale) -> None:
    theirs = spatial(p_rotation=1, rotation=(angle, angle), p_scaling=1, scaling=(scale, scale))
    image, labels = apply(theirs, *source)
    settings = OFF | {"p_rotation": 1, "rotation": (angle, angle), "p_scaling": 1, "scaling": (scale, scale)}
    found, found_labels = ours(source, Augmentation(patch=PATCH, **settings))
    assert found.shape == image.shape
    assert (found - image).abs().max() < 1e-4
    assert (found_labels != labels).float().mean() < 2e-3  # ties and the rounding of their scores


@pytest.mark.parametrize("scale", [0.7, 1.3])
def test_scaling_alone_needs_no_points_and_gives_the_same(source, scale) -> None:
    image, labels = apply(spatial(p_scaling=1, scaling=(scale, scale)), *source)
    found, found_labels = ours(source, Augmentation(patch=PATCH, **OFF | {"p_scaling": 1, "scaling": (scale, scale)}))
    assert (found - image).abs().max() < 1e-4
    assert (found_labels != labels).float().mean() < 2e-3


def test_slices_are_turned_in_their_plane_where_they_are_thick(source) -> None:
    image, labels = (volume[:, : PATCH[0]] for volume in source)
    angle, scale = 1.0, 1.2
    data = Convert3DTo2DTransform()(image=image.clone(), segmentation=labels.clone())
    data = spatial(PATCH[1:], p_rotation=1, rotation=(angle, angle), p_scaling=1, scaling=(scale, scale))(**data)
    theirs = Convert2DTo3DTransform()(**data)
    settings = OFF | {"p_rotation": 1, "rotation": (angle, angle), "p_scaling": 1, "scaling": (scale, scale)}
    found, found_labels = ours((image, labels), Augmentation(patch=PATCH, flat=True, **settings))
    assert (found - theirs["image"]).abs().max() < 1e-4
    assert (found_labels != theirs["segmentation"]).float().mean() < 2e-3


def test_a_patch_within_the_image_has_no_label_from_beyond(source) -> None:
    image, labels = (volume[:, 12:] for volume in source)  # without labels from beyond
    angle, patch = 0.3, (12, 16, 12)
    wanted, wanted_labels = apply(spatial(patch, p_rotation=1, rotation=(angle, angle)), image, labels)
    settings = OFF | {"p_rotation": 1, "rotation": (angle, angle)}
    found, found_labels = ours((image, labels), Augmentation(patch=patch, **settings))
    assert set(found_labels.unique().tolist()) == set(wanted_labels.unique().tolist()) == {1, 2}
    assert (found - wanted).abs().max() < 1e-4
    assert (found_labels != wanted_labels).float().mean() < 2e-3


@pytest.mark.parametrize("turned", [{}, {"p_rotation": 1, "rotation": (0.4, 0.4)}, {"p_scaling": 1}])
@pytest.mark.parametrize("flat", [False, True])
def test_planes_beyond_the_image_need_not_be_read(source, turned, flat) -> None:
    image, labels = (volume[:, : PATCH[0]].clone() for volume in source)
    image[:, :5], labels[:, :5] = 0, -1
    augmentation = Augmentation(patch=PATCH, flat=flat, **OFF | turned)
    whole, part = ours((image, labels), augmentation), ours((image, labels), augmentation, beyond=5)
    assert torch.allclose(whole[0], part[0], atol=1e-5)
    assert torch.equal(whole[1], part[1])


def test_flat_images_are_turned_as_nnunet_does(source) -> None:
    image, labels = (volume[:, 20] for volume in source)
    angle, scale = -0.8, 0.9
    theirs = spatial(PATCH[1:], p_rotation=1, rotation=(angle, angle), p_scaling=1, scaling=(scale, scale))
    wanted, wanted_labels = apply(theirs, image, labels)
    settings = OFF | {"p_rotation": 1, "rotation": (angle, angle), "p_scaling": 1, "scaling": (scale, scale)}
    found, found_labels = ours((image, labels), Augmentation(patch=PATCH[1:], **settings | {"mirror": ()}))
    assert (found - wanted).abs().max() < 1e-4
    assert (found_labels != wanted_labels).float().mean() < 5e-3


@pytest.mark.parametrize("sigma", [0.5, 0.62, 0.75, 1.0])
def test_blur_is_nnunets(source, sigma) -> None:
    image, _ = apply(GaussianBlurTransform((sigma, sigma), False, False, 1), source[0])
    found, _ = ours(source, Augmentation(**fixed("blur", sigma), p_blur_channel=1))
    assert (found - image).abs().max() < 1e-5


@pytest.mark.parametrize("scale", [0.5, 0.66, 0.93])
def test_lowered_resolution_is_nnunets(source, scale) -> None:
    image, _ = apply(SimulateLowResolutionTransform((scale, scale), False, True, None, None, 1), source[0])
    found, _ = ours(source, Augmentation(**fixed("low_resolution", scale), p_low_resolution_channel=1))
    assert (found - image).abs().max() < 1e-5


def test_contrast_and_brightness_are_nnunets(source) -> None:
    image, _ = apply(ContrastTransform((1.2, 1.2), True, False, 1), source[0])
    found, _ = ours(source, Augmentation(**fixed("contrast", 1.2)))
    assert (found - image).abs().max() < 1e-5
    found, _ = ours(source, Augmentation(**fixed("brightness", 1.1)))
    assert torch.allclose(found, source[0] * 1.1)


@pytest.mark.parametrize("inverted", [False, True])
def test_gamma_is_nnunets(source, inverted) -> None:
    image, _ = apply(GammaTransform((1.4, 1.4), int(inverted), False, 1, 1), source[0])
    settings = fixed("gamma", 1.4) | ({"p_gamma": 0.0, "p_inverted_gamma": 1.0} if inverted else {})
    found, _ = ours(source, Augmentation(**settings))
    assert (found - image).abs().max() < 1e-4


def test_noise_has_the_deviation_that_was_drawn(source) -> None:
    found, labels = ours(source, Augmentation(**fixed("noise", 0.07)))
    noise = found - source[0]
    assert noise.std().item() == pytest.approx(0.07, rel=0.02)
    assert abs(noise.mean().item()) < 0.002
    assert not torch.equal(noise[0], noise[1])
    assert torch.equal(labels, source[1])


def test_the_same_draw_gives_the_same_patch_and_voxels_beyond_the_image_are_zero_where_asked(source) -> None:
    augmentation = Augmentation(patch=PATCH, masked=(1,))
    first, again = ours(source, augmentation, seed=5), ours(source, augmentation, seed=5)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    image, labels = first
    outside = labels[0] < 0
    assert outside.any()
    assert (image[1][outside] == 0).all()
    assert not (image[0][outside] == 0).all()
    assert not torch.equal(image, ours(source, augmentation, seed=6)[0])
