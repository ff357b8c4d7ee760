"""The lesion recipe's net, and what it asks of augmentation and sampling."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from trainers.data.augment import Augmentation, Source, augment
from trainers.data.patches import Sampling
from trainers.nets.unet3d import UNet3D, UNet3DConfig


@pytest.mark.parametrize(("depth", "count"), [(2, 208_449), (3, 983_553), (4, 4_082_049)])
def test_the_net_has_the_published_number_of_parameters(depth: int, count: int) -> None:
    for norm in ("batch", "instance"):
        net = UNet3D(UNet3DConfig(depth=depth, norm=norm))
        assert sum(p.numel() for p in net.parameters()) == count


def test_the_net_gives_a_logit_a_voxel() -> None:
    config = UNet3DConfig(base=2)
    assert config.reduction == 4
    assert UNet3D(config)(torch.randn(2, 1, 8, 12, 16)).shape == (2, 1, 8, 12, 16)


QUIET = dict.fromkeys(
    ("p_rotation", "p_scaling", "p_noise", "p_blur", "p_brightness", "p_contrast", "p_low_resolution",
     "p_inverted_gamma", "p_gamma"), 0.0
)  # fmt: skip


def bent(patch: tuple[int, ...], strength: tuple[float, float], seed: int) -> tuple[torch.Tensor, torch.Tensor, object]:
    """Bend a cube of ramps around which there is room; return image (C, Z, Y, X), labels and the draw."""
    augmentation = Augmentation(patch=patch, mirror=(), p_elastic=1.0, elastic=strength, elastic_step=8, **QUIET)
    draw = augmentation.draw(np.random.default_rng(seed), 3)
    whole = tuple(size + 16 for size in patch)
    box = draw.source_box(patch, whole)
    ramps = np.stack(np.meshgrid(*[np.arange(size) for size in whole], indexing="ij")).astype(np.float32)
    labels = (np.abs(ramps - np.asarray(whole)[:, None, None, None] / 2).max(axis=0) < 5)[None].astype(np.int16)
    part = (slice(None), *(slice(low, high) for low, high in box))
    source = Source(
        image=torch.from_numpy(np.ascontiguousarray(ramps[part])),
        labels=torch.from_numpy(np.ascontiguousarray(labels[part])),
        corner=tuple(low for low, _ in box),
        whole=whole,
    )
    images, found = augment([source], [draw], augmentation, torch.Generator())
    return images[0], found[0], draw


def test_an_elastic_draw_moves_points_by_what_was_drawn_and_reads_no_more_than_it_needs() -> None:
    patch = (17, 17, 17)
    image, labels, draw = bent(patch, (1.5, 1.5), 3)
    for axis in range(3):  # ramps tell where each voxel came from
        expected = np.arange(17) + 8
        expected = expected.reshape([-1 if a == axis else 1 for a in range(3)])
        moved = image[axis].numpy() - expected
        lattice = draw.elastic[axis]  # its points lie on voxels 0, 8 and 16
        assert np.allclose(moved[::8, ::8, ::8], lattice, atol=1e-3)
        assert np.abs(moved).max() <= draw.bend(3)[axis] + 1e-3
    assert set(labels.unique().tolist()) == {0, 1}
    still, _, _ = bent(patch, (0.0, 0.0), 3)
    assert torch.allclose(still[0][:, 0, 0], torch.arange(17.0) + 8, atol=1e-3)


def test_without_elastic_the_draws_are_those_of_before() -> None:
    rng, other = np.random.default_rng(1), np.random.default_rng(1)
    Augmentation(patch=(8, 8, 8)).draw(rng, 1)
    draw = Augmentation(patch=(8, 8, 8), p_elastic=0.0, elastic=(5, 5)).draw(other, 1)
    assert draw.elastic is None
    assert rng.random() == other.random()


def test_patches_stay_near_the_middle_where_they_are_told_to() -> None:
    places = {1: np.array([[0, 5, 2, 60], [0, 90, 60, 30]])}
    sampling = Sampling(batch=2, patch=(48, 48, 48), source=(56, 56, 56), shift=(None, 10, 3))
    rng = np.random.default_rng(0)
    for foreground in (False, True):
        corners = np.array(
            [sampling.corner(rng, (120, 72, 72), places, foreground=foreground) for _ in range(300)]
        )  # fmt: skip
        middles = corners[:, 1:] + 28 - 36
        assert np.abs(middles).max(axis=0).tolist() == [10, 3]
        assert corners[:, 0].min() < 0 < corners[:, 0].max()
