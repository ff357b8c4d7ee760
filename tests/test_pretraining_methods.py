"""The methods of pre-training: views, modules, and losses against short versions written from the papers."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
import torch

from trainers.core.errors import TrainingError
from trainers.nets.primus import PrimusConfig
from trainers.nets.resenc import ResEncConfig
from trainers.pretraining import masks
from trainers.pretraining.config import METHOD_NAMES, PAIRS
from trainers.pretraining.contrast import nt_xent
from trainers.pretraining.crops import P_QUARTER_TURN, VARIATION, varied
from trainers.pretraining.method import Draws, context, fitted
from trainers.pretraining.methods import METHODS, check_pair, make
from trainers.pretraining.methods.mae import MaskedPrimus, turning
from trainers.pretraining.methods.models_genesis import bent, bezier, shuffled
from trainers.pretraining.methods.voco import overlap, voco_losses
from trainers.pretraining.methods.volume_fusion import soft_dice

NETS: dict[str, Any] = {
    "resenc": ResEncConfig(features=(4, 8, 8), blocks=(1, 1, 1)),
    "primus": PrimusConfig(width=24, depth=2, heads=2, drop_path=0),
}
MASKING = [("mae", "resenc"), ("mae", "primus"), ("s3d", "resenc"), ("simmim", "primus")]


@pytest.fixture(autouse=True)
def _alike() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(5)


def draws(*seed: int, train: bool = True) -> Draws:
    return Draws.of(seed or (1,), torch.device("cpu"), train=train)


def patches(method: Any, batch: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    reading = method.reading()
    images = torch.randn(batch * reading.each, 1, *reading.patch)
    return images, torch.ones_like(images)


def test_there_are_fourteen_pairs_and_the_two_others_say_why() -> None:
    assert tuple(METHODS) == METHOD_NAMES
    assert len(METHODS) == 8
    assert [(name, encoder) for name, method in METHODS.items() for encoder in method.clip] == list(PAIRS)
    assert len(PAIRS) == 14
    with pytest.raises(TrainingError, match="a Transformer does so with mae") as error:
        check_pair("s3d", "primus")
    assert "simmim" in error.value.hint
    with pytest.raises(TrainingError, match="a convolutional encoder has none"):
        check_pair("simmim", "resenc")
    with pytest.raises(TrainingError, match="no option 'mask'"):
        make("mae", "resenc", options={"mask": 1})
    with pytest.raises(TrainingError, match="mask_ratio"):
        make("mae", "resenc", options={"mask_ratio": "much"})
    with pytest.raises(ValueError, match="divisible by 4"):
        fitted(NETS["resenc"], make("mae", "resenc", options={"patch": [34, 32, 32]}))
    with pytest.raises(ValueError, match="not the token"):
        fitted(NETS["primus"], make("mae", "primus", tiny=True, options={"block": 16}))


CUBE = (160, 160, 160)
TURNING = {"p_rotation": 0.2, "rotation_degrees": 30, "p_scaling": 0.2, "scaling": (0.7, 1.4)}
PUBLISHED = {
    "voco": {"crop": (64, 64, 64), "grid": (4, 4, 1), "targets": 4, "embedding": 2048},
    "volume_fusion": {
        "patch": CUBE, "classes": 5, "boxes": (10, 39), "smallest_side": 8, "largest_side": 0.625,
    },
    "models_genesis": {
        "patch": CUBE, "p_flip": 0.4, "p_shuffle": 0.5, "windows": 10_000, "p_curve": 0.9, "curve_samples": 100_000,
        "p_paint": 0.9, "p_inside": 0.2, "p_another_box": 0.95, "legacy": False,
    },
    "mae": {"patch": CUBE, "mask_ratio": 0.75, "block": 16, **TURNING},
    "s3d": {"patch": CUBE, "mask_ratio": (0.6, 0.9), "block": 16, **TURNING},
    "simmim": {"patch": CUBE, "mask_ratio": 0.75, "block": 8, **TURNING},
    "swin_unetr": {"patch": CUBE, "sides": (0.05, 0.25), "budget": 0.3, "temperature": 0.5},
    "simclr": {
        "patch": (192, 192, 64), "crop": (64, 64, 64), "references": 2, "overlap": 0.5, "temperature": 0.5,
        "embedding": 2048,
    },
}  # fmt: skip
INTENSITIES = {
    "p_rotation": 0, "p_scaling": 0, "p_noise": 0.1, "noise": (0, 0.1), "p_blur": 0.2, "p_blur_channel": 0.5,
    "blur": (0.5, 1), "p_brightness": 0.15, "brightness": (0.75, 1.25), "p_contrast": 0.15, "contrast": (0.75, 1.25),
    "low_resolution": (0.5, 1), "p_inverted_gamma": 0.1, "p_gamma": 0.3, "gamma": (0.7, 1.5), "mirror": (0, 1, 2),
}  # fmt: skip


def test_hyper_parameters_are_those_of_the_papers() -> None:
    assert {name: asdict(make(name, next(iter(METHODS[name].clip)))) for name in METHODS} == PUBLISHED
    fused = make("volume_fusion", "resenc").reading().augmentation
    for variation, low_resolution in ((fused, 0.25), (VARIATION, 0.1)):
        assert INTENSITIES.items() <= vars(variation).items()
        assert variation.p_low_resolution == low_resolution
    assert P_QUARTER_TURN == 0.3
    seen = {name: make(name, next(iter(METHODS[name].clip))) for name in METHODS}
    assert {name: method.reading().patch for name, method in seen.items()} == {
        "voco": (256, 256, 64), "volume_fusion": (160,) * 3, "models_genesis": (160,) * 3, "mae": (160,) * 3,
        "s3d": (160,) * 3, "simmim": (160,) * 3, "swin_unetr": (160,) * 3, "simclr": (192, 192, 64),
    }  # fmt: skip
    assert seen["voco"].seen == seen["simclr"].seen == (64, 64, 64)
    assert METHODS["voco"].clip == {"resenc": None, "primus": 1.0}
    assert METHODS["simclr"].clip == {"resenc": 0.1, "primus": 1.0}
    others = [METHODS[name].clip for name in METHODS if name not in {"voco", "simclr"}]
    assert all(clip.get("resenc", 12.0) == 12.0 and clip.get("primus", 1.0) == 1.0 for clip in others)
    assert {name: METHODS[name].batch for name in METHODS if METHODS[name].batch != 8} == {"simclr": 32}
    assert make("mae", "primus").block == 8
    assert make("mae", "resenc").block == 16
    assert seen["volume_fusion"].reading().each == 2
    assert seen["volume_fusion"].reading().centred


def test_what_is_read_holds_what_a_rotation_brings_in() -> None:
    angle = math.radians(30)
    assert [context((edge,) * 3, angle)[0] for edge in (160, 96, 64)] == [257, 154, 102]
    reading = make("mae", "resenc").reading()
    assert reading.source(train=True) == (257, 257, 257)
    assert reading.source(train=False) == (160, 160, 160)
    assert make("models_genesis", "resenc").reading().source(train=True) == (160, 160, 160)
    augmentation = turning(make("simmim", "primus"))
    drawn = [augmentation.draw(np.random.default_rng(i), 1) for i in range(6000)]
    assert not any(d.noise or d.blur or d.brightness or d.contrast or d.low_resolution or d.gamma for d in drawn)
    assert np.mean([d.affine is not None for d in drawn]) == pytest.approx(1 - 0.8 * 0.8, abs=0.03)
    assert np.mean([0 in d.mirror for d in drawn]) == pytest.approx(0.5, abs=0.04)
    scales = np.array([np.linalg.det(d.affine) ** (1 / 3) for d in drawn if d.affine is not None])
    scales = scales[np.abs(scales - 1) > 1e-6]
    assert len(scales) / len(drawn) == pytest.approx(0.2, abs=0.02)
    assert 0.7 <= scales.min() < 0.72
    assert 1.38 < scales.max() <= 1.4
    assert np.mean(scales < 1) == pytest.approx(0.5, abs=0.03)  # 0.43 were they drawn evenly


@pytest.mark.parametrize(("name", "encoder"), PAIRS)
def test_each_pair_learns_something_from_a_batch(name: str, encoder: str) -> None:
    method = make(name, encoder, tiny=True)
    net = fitted(NETS[encoder], method)
    module = method.module(net)
    views = method.views(*patches(method), draws())
    losses = method.losses(module, views)
    losses["loss"].backward()
    assert all(value.ndim == 0 and bool(value.isfinite()) for value in losses.values())
    silent = [key for key, p in module.named_parameters() if p.grad is None and p.requires_grad]
    assert silent == []
    again = method.losses(module, method.views(*patches(method), draws(2, train=False)))
    assert bool(again["loss"].isfinite())


@pytest.mark.parametrize(("name", "encoder"), PAIRS)
def test_what_a_pair_sees_depends_on_the_draws_alone(name: str, encoder: str) -> None:
    method = make(name, encoder, tiny=True)
    images, weight = patches(method)
    kept = images.clone()
    first, same, other = (method.views(images, weight, draws(seed)) for seed in (1, 1, 2))
    assert torch.equal(images, kept)
    assert all(torch.equal(first[key], same[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


@pytest.mark.parametrize(("name", "encoder"), MASKING)
@pytest.mark.parametrize("train", [True, False])
def test_what_is_seen_is_what_the_loss_leaves_out(name: str, encoder: str, train: bool) -> None:
    method = make(name, encoder, tiny=True, options={"patch": (32, 32, 48)})
    module = method.module(fitted(NETS[encoder], method)).train(train)
    images, weight = patches(method)
    images.requires_grad_()
    views = method.views(images, weight, draws())
    found = module(views["image"], views["blocks"])
    found.square().sum().backward()
    found = found.detach().requires_grad_()
    masks.hidden_error(found, images.detach(), views["blocks"], weight).backward()
    seen, scored = images.grad.abs() > 0, found.grad.abs() > 0
    assert torch.equal(seen, ~scored)
    assert 0 < int(seen.sum()) < seen.numel()


def test_published_weights_see_the_same_voxels() -> None:
    method = make("mae", "primus", tiny=True, options={"patch": (32, 48, 16)})
    config = PrimusConfig(width=24, depth=1, heads=2, patch=(32, 48, 16), published_order=True)
    module = method.module(config)
    images, weight = patches(method)
    images.requires_grad_()
    views = method.views(images, weight, draws())
    module(views["image"], views["blocks"]).square().sum().backward()
    assert torch.equal(images.grad.abs() > 0, masks.opened(torch.ones_like(images), views["blocks"]) > 0)


def test_exactly_three_quarters_are_hidden() -> None:
    for patch, block, hidden in (((160,) * 3, 16, 750), ((160,) * 3, 8, 6000)):
        blocks = masks.random_blocks(3, masks.block_grid(patch, block), 0.75, draws())
        assert (blocks == 0).flatten(1).sum(1).tolist() == [hidden] * 3
        assert not torch.equal(blocks[0], blocks[1])
    s3d = make("s3d", "resenc", tiny=True)
    found = [s3d.views(*patches(s3d), draws(seed))["blocks"] for seed in range(40)]
    assert all(len(set((blocks == 0).flatten(1).sum(1).tolist())) == 1 for blocks in found)
    ratios = [float((blocks == 0).float().mean()) for blocks in found]
    assert 0.57 < min(ratios) < 0.68
    assert 0.82 < max(ratios) < 0.9


def test_the_error_of_what_is_hidden_is_a_mean_over_its_voxels() -> None:
    image, found = torch.randn(2, 1, 4, 4, 4), torch.randn(2, 1, 4, 4, 4)
    blocks = torch.zeros(2, 1, 2, 2, 2)
    blocks[:, :, 0] = 1
    weight = (torch.rand_like(image) > 0.5).float()
    chosen = (np.kron(blocks.numpy(), np.ones((2, 2, 2))) == 0) & (weight.numpy() > 0)
    expected = np.mean((found.numpy() - image.numpy())[chosen] ** 2)
    assert float(masks.hidden_error(found, image, blocks, weight)) == pytest.approx(expected, rel=1e-5)
    everything = np.mean((found.numpy() - image.numpy()) ** 2)
    assert float(masks.weighted_error(found, image, torch.ones_like(image))) == pytest.approx(
        expected=everything, rel=1e-5
    )


def test_a_masked_primus_has_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        net = MaskedPrimus(PrimusConfig(patch=(96, 96, 96)))
    assert sum(p.numel() for p in net.parameters()) == 165_818_177


def test_a_full_masked_primus_keeps_2000_of_8000_tokens() -> None:
    method = make("mae", "primus")
    views = method.views(torch.zeros(1, 1, 1, 1, 1), torch.zeros(1), draws())
    assert int(views["blocks"].sum()) == 2000
    assert views["blocks"].numel() == 8000


def test_nt_xent_is_the_textbooks() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 5, 7))
    rows = np.concatenate([first, second])
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    likeness = np.exp(rows @ rows.T / 0.5)
    terms = [
        -np.log(likeness[i, (i + 5) % 10] / sum(likeness[i, k] for k in range(10) if k != i)) for i in range(10)
    ]  # fmt: skip
    loss, found = nt_xent(torch.from_numpy(first), torch.from_numpy(second), 0.5)
    assert float(loss) == pytest.approx(np.mean(terms), rel=1e-5)
    assert 0 <= float(found) <= 1
    assert float(nt_xent(torch.eye(4), torch.eye(4), 0.5)[1]) == 1


def test_simclrs_partners_overlap_by_half() -> None:
    method = make("simclr", "resenc")
    for seed in range(50):
        first, second = method.corners(np.random.default_rng(seed))
        assert np.abs(first - second).max() <= 32
        for corners in (first, second):
            assert corners.min() >= 0
            assert (corners + 64 <= np.array((192, 192, 64))).all()
    tiny = make("simclr", "resenc", tiny=True)
    images, weight = patches(tiny)
    views = tiny.views(images, weight, draws(train=False))
    assert views["first"].shape == views["second"].shape == (4, 1, 16, 16, 16)


def test_vocos_overlaps_are_shares_of_a_crop() -> None:
    method = make("voco", "resenc", tiny=True)
    images, weight = patches(method)
    views = method.views(images, weight, draws(train=False))
    assert views["crops"].shape == (2, 20, 1, 16, 16, 16)
    torch.testing.assert_close(views["overlaps"].sum(2), torch.ones(2, 4))
    torch.testing.assert_close(views["crops"][0, 5, 0], images[0, 0, 16:32, 16:32])  # base (1, 1, 0) of 4 x 4 x 1
    corner, base = np.array([[3, 20, 0]]), np.array([[0, 16, 0], [16, 0, 0]])
    expected = [[13 * 12 / 256, 0]]
    np.testing.assert_allclose(overlap(corner, base, (16, 16, 16)), expected)
    assert make("voco", "primus").patch == (256, 256, 64)


def test_vocos_loss_is_the_papers() -> None:
    rng = np.random.default_rng(1)
    bases, targets = rng.normal(size=(2, 4, 6)), rng.normal(size=(2, 3, 6))
    overlaps = rng.dirichlet(np.ones(4), (2, 3))
    overlaps[:, :, 0] = 0

    def cosine(a: np.ndarray, b: np.ndarray) -> float:
        return max(0.0, float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)))

    positive, negative, spread = 0.0, [], []
    for sample in range(2):
        for i in range(3):
            for j in range(4):
                s, o = cosine(targets[sample, i], bases[sample, j]), overlaps[sample, i, j]
                positive -= o * math.log(1 - abs(o - s) + 1e-6)
                negative += [s * s] if o == 0 else []
        pairs = [cosine(bases[sample, j], bases[sample, k]) for j in range(4) for k in range(j + 1, 4)]
        spread.append(np.mean(pairs))
    tensors = [torch.from_numpy(array) for array in (bases, targets, overlaps)]
    parts, _ = voco_losses(*tensors)
    assert float(parts["positive"]) == pytest.approx(positive / overlaps.sum(), rel=1e-6)
    assert float(parts["negative"]) == pytest.approx(np.mean(negative), rel=1e-6)
    assert float(parts["spread"]) == pytest.approx(np.mean(spread), rel=1e-6)


def test_volume_fusions_labels_are_the_shares_that_were_mixed() -> None:
    method = make("volume_fusion", "resenc", tiny=True)
    first, second = torch.full((1, 1, 32, 32, 32), 4.0), torch.zeros(1, 1, 32, 32, 32)
    views = method.views(torch.cat([first, second]), torch.ones(2), draws())
    assert torch.equal(views["image"][:, 0], views["labels"].float())
    assert set(views["labels"].unique().tolist()) <= {0, 1, 2, 3, 4}
    assert float((views["labels"] > 0).float().mean()) > 0.2
    full = make("volume_fusion", "resenc")
    assert int(full.largest_side * 160) == 100
    assert full.boxes == (10, 39)


def test_volume_fusion_mixes_no_image_with_itself() -> None:
    method = make("volume_fusion", "resenc", tiny=True)
    image = torch.randn(1, 1, 32, 32, 32)
    views = method.views(torch.cat([image, image]), torch.ones(2), draws(train=False))
    inner = views["labels"][:, None] == 4
    assert torch.equal(views["image"][inner], image[inner])
    assert not torch.equal(views["image"], image)


def test_volume_fusions_loss_is_cross_entropy_minus_dice() -> None:
    logits, labels = torch.randn(2, 5, 3, 3, 3), torch.randint(0, 5, (2, 3, 3, 3))
    shares = np.exp(logits.numpy())
    shares /= shares.sum(1, keepdims=True)
    scores = [
        (2 * shares[b, c][labels[b].numpy() == c].sum() + 1e-5)
        / (shares[b, c].sum() + (labels[b].numpy() == c).sum() + 1e-5)
        for b in range(2)
        for c in range(5)
    ]
    assert float(soft_dice(logits, labels)) == pytest.approx(np.mean(scores), rel=1e-5)
    entropy = -np.mean(np.log(np.take_along_axis(shares, labels.numpy()[:, None], 1)))
    losses = make("volume_fusion", "resenc", tiny=True).losses(lambda _: logits, {"image": logits, "labels": labels})
    assert float(losses["loss"]) == pytest.approx(entropy - np.mean(scores), rel=1e-5)
    named = (shares / shares.mean((0, 2, 3, 4), keepdims=True)).argmax(1)
    right = [np.mean(named[labels.numpy() == c] == c) for c in range(5)]
    assert float(losses["accuracy"]) == pytest.approx(np.mean(right), rel=1e-5)


def test_a_bezier_curve_is_monotone_and_half_of_them_fall() -> None:
    falling = 0
    for seed in range(60):
        places, values = bezier(np.random.default_rng(seed), 500)
        assert (np.diff(places) >= 0).all()
        assert {round(values[0]), round(values[-1])} == {0, 1}
        falling += values[0] > values[-1]
    assert 18 < falling < 42
    places, values = bezier(np.random.default_rng(3), 500)
    volume = torch.rand(4, 5, 6) * 1.4 - 0.2
    np.testing.assert_allclose(bent(volume, places, values), np.interp(volume.numpy(), places, values), atol=1e-4)


def test_shuffling_moves_voxels_within_small_windows() -> None:
    volume = torch.arange(40.0**3).view(40, 40, 40)
    found = shuffled(volume, 400, draws())
    moved = (found != volume).nonzero()
    assert 0.02 < len(moved) / volume.numel() < 0.5
    source = found[tuple(moved.T)].long()
    places = torch.stack([source // 1600, source // 40 % 40, source % 40], dim=1)
    assert int((places - moved).abs().max()) <= 3  # windows of 1 to 4 voxels
    one = shuffled(volume[:12, :12, :12].contiguous(), 1, draws(4))
    assert sorted(one.flatten().tolist()) == sorted(volume[:12, :12, :12].flatten().tolist())


def test_models_genesis_spoils_in_the_range_of_the_patch_and_as_nnssl_on_request() -> None:
    options = {"p_shuffle": 0, "p_curve": 1, "p_paint": 0}
    method = make("models_genesis", "resenc", tiny=True, options=options)
    images, weight = patches(method)
    views = method.views(images, weight, draws())
    assert float(views["image"].min()) == pytest.approx(float(views["target"].min()), abs=0.05)
    legacy = make("models_genesis", "resenc", tiny=True, options=options | {"legacy": True})
    found = legacy.views(images, weight, draws())["image"]
    assert float(found.min()) >= 0
    assert float(found.max()) <= 1
    painted = make("models_genesis", "resenc", tiny=True, options={"p_shuffle": 0, "p_curve": 0, "p_paint": 1})
    shares = [
        float((painted.views(images, weight, draws(seed))["image"] - images).abs().flatten(1).gt(1e-5).float().mean())
        for seed in range(10)
    ]
    assert max(shares) > 0.3
    axes = [method._flips(np.random.default_rng(seed)) for seed in range(300)]
    assert {axis for found in axes for axis in found} == {1, 2, 3}
    assert {axis for seed in range(300) for axis in legacy._flips(np.random.default_rng(seed))} == {1, 2}


def test_painted_boxes_have_the_published_sizes() -> None:
    whole = torch.full((42, 42, 42), 2.0)
    for p_inside, least, most in ((1, 0, 5 * 14**3), (0, 18**3, 5 * 24**3)):
        method = make("models_genesis", "resenc", options={"p_inside": p_inside})
        for seed in range(12):
            found = method._painted(whole, draws(seed))
            box = found != 2 if p_inside else found == 2
            assert least <= int(box.sum()) <= most
            assert not 0 < int(box.sum()) < 7**3
            assert not box[:3].any()
            assert not box[..., -3:].any()
            noise = found[found != 2]
            assert bool(((noise >= 0) & (noise < 1)).all())


def test_swin_unetrs_boxes_are_a_twentieth_to_a_quarter_of_a_side() -> None:
    method = make("swin_unetr", "resenc")
    found = [method.boxes(draws(seed)) for seed in range(60)]
    sides = np.array([[edge.stop - edge.start for edge in box[1:]] for boxes in found for box in boxes])
    assert (sides.min(), sides.max()) == (8, 39)
    shares = [sum(np.prod([edge.stop - edge.start for edge in box[1:]]) for box in boxes) / 160**3 for boxes in found]
    assert max(shares) < 0.3 + 0.25**3
    assert np.mean(shares) == pytest.approx(0.15, abs=0.03)


def test_swin_unetrs_views_are_turned_and_cut_within_the_budget() -> None:
    method = make("swin_unetr", "resenc", tiny=True)
    images, weight = patches(method)
    views = method.views(images, weight, draws())
    assert views["image"].shape == (4, 1, 32, 32, 32)
    for view, k, volume in zip(views["target"], views["turns"], (*images, *images), strict=True):
        assert torch.equal(view, volume.rot90(int(k), (2, 3)))
    changed = [
        (method.views(images, weight, draws(seed))["image"] != method.views(images, weight, draws(seed))["target"])
        .float().mean((1, 2, 3, 4)).max() for seed in range(8)
    ]  # fmt: skip
    assert 0.05 < max(changed) < 0.65
    with pytest.raises(TrainingError, match="last two sides"):
        make("swin_unetr", "resenc", options={"patch": [32, 32, 64]})


def test_swin_unetrs_loss_is_the_sum_of_three() -> None:
    method = make("swin_unetr", "resenc", tiny=True)
    target, restored = torch.randn(4, 1, 2, 2, 2), torch.randn(4, 1, 2, 2, 2)
    logits, embedded, turns = torch.randn(4, 4), torch.randn(4, 6), torch.tensor([0, 3, 1, 2])
    found = method.losses(lambda _: (restored, logits, embedded), {"image": target, "target": target, "turns": turns})
    shares = np.exp(logits.numpy()) / np.exp(logits.numpy()).sum(1, keepdims=True)
    expected = np.abs(restored.numpy() - target.numpy()).mean() - np.log(shares[np.arange(4), turns.numpy()]).mean()
    expected += float(nt_xent(embedded[:2], embedded[2:], 0.5)[0])
    assert float(found["loss"]) == pytest.approx(expected, rel=1e-5)


def test_crops_vary_in_training_only() -> None:
    crops = torch.randn(40, 1, 8, 8, 8)
    assert torch.equal(varied(crops, draws(train=False)), crops)
    found = varied(crops, draws())
    changed = (found != crops).flatten(1).any(1)
    assert float(changed.float().mean()) > 0.7
    assert not torch.equal(found[0], found[1])
