"""The patches that our loaders give, against those of nnU-Net's own loader from the same preprocessed cases."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from batchgeneratorsv2.transforms.intensity.contrast import BGContrast
from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
from batchgeneratorsv2.transforms.utils.random import RandomTransform
from nnunetv2.training.data_augmentation.compute_initial_patch_size import get_patch_size
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainerDA5 import nnUNetTrainerDA5
from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainerNoDA import nnUNetTrainerNoDA
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from scipy.stats import ks_2samp

from trainers.core.errors import TrainingError
from trainers.core.progress import Progress
from trainers.data import patches
from trainers.data.augment import Augmentation
from trainers.data.loader import PatchLoader
from trainers.data.patches import CaseStore, Sampling
from trainers.segmentation import prepare
from trainers.segmentation.config import SegmentationSettings
from trainers.segmentation.data_path import UnknownTransformError, augmentation_of, targets_of

PATCH = (20, 24, 16)
ROTATION = (-np.pi / 6, np.pi / 6)
UNLIKELY = 1e-3  # p-value below which two samples are taken for different


def transforms(trainer=nnUNetTrainer, patch=PATCH, regions=None, scales=None, *, dummy_2d=False, masked=False) -> list:
    rotation = ROTATION if len(patch) == 3 and not dummy_2d else (-np.pi, np.pi)
    return trainer.get_training_transforms(
        patch, rotation, scales, tuple(range(len(patch))), dummy_2d, use_mask_for_norm=[masked],
        is_cascaded=False, foreground_labels=[1], regions=regions, ignore_label=None,
    ).transforms  # fmt: skip


@pytest.fixture(scope="module")
def preprocessed(test_data: Path, tmp_path_factory: pytest.TempPathFactory) -> prepare.Prepared:
    """Return the preprocessed lesion data set: labels 0, 1, 2, regions, three cases without a lesion."""
    cache = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()):
        for name, folder in (("raw", cache / "raw"), ("preprocessed", cache), ("results", cache / "unused")):
            patch.setenv(f"nnUNet_{name}", str(folder))
        patch.setenv("nnUNet_n_proc_DA", "0")
        dataset = test_data / "nnUNet_raw" / "Dataset510_LesionSCT2w"
        return prepare.prepare(dataset, cache, SegmentationSettings(), 2, Progress(io.StringIO()))


def folder_of(prepared: prepare.Prepared) -> Path:
    return prepared.folder / "nnUNetPlans_3d_fullres"


def ours(prepared: prepare.Prepared, batch: int, source: tuple[int, ...], seed: int = 3, threads: int = 0):
    cases = [path.stem for path in folder_of(prepared).glob("*.pkl")]
    return PatchLoader(
        CaseStore(folder_of(prepared), cases),
        Sampling(batch=batch, patch=PATCH, source=source),
        augmentation_of(transforms(regions=((1, 2), 2)), PATCH),
        targets_of(((1, 2), 2), None),
        device=torch.device("cpu"), seed=(seed,), threads=threads,
    )  # fmt: skip


def test_nnunets_transforms_are_our_defaults() -> None:
    assert augmentation_of(transforms(), PATCH) == Augmentation(patch=PATCH, rotation=ROTATION)
    found = augmentation_of(transforms(patch=(4, 40, 40), dummy_2d=True, masked=True, scales=[[1, 1, 1]]), (4, 40, 40))
    assert found == Augmentation(patch=(4, 40, 40), flat=True, rotation=(-np.pi, np.pi), masked=(0,))
    found = augmentation_of(transforms(patch=(40, 40)), (40, 40))
    assert found == Augmentation(patch=(40, 40), rotation=(-np.pi, np.pi), mirror=(0, 1))


def test_a_class_that_leaves_transforms_out_gets_what_it_asks_for() -> None:
    nothing = augmentation_of(transforms(nnUNetTrainerNoDA), PATCH)
    assert (nothing.p_rotation, nothing.p_gamma, nothing.p_noise, nothing.mirror) == (0, 0, 0, ())
    without = [t for t in transforms() if "Gamma" not in repr(t)]
    assert (augmentation_of(without, PATCH).p_gamma, augmentation_of(without, PATCH).p_blur) == (0, 0.2)


def test_transforms_that_we_do_not_have_are_not_guessed() -> None:
    with pytest.raises(UnknownTransformError):
        augmentation_of(transforms(nnUNetTrainerDA5), PATCH)
    with pytest.raises(UnknownTransformError):
        augmentation_of(transforms()[::-1], PATCH)
    spatial = transforms()
    spatial[0].p_elastic_deform = 0.2
    with pytest.raises(UnknownTransformError, match="p_elastic_deform"):
        augmentation_of(spatial, PATCH)


@pytest.mark.parametrize("regions", [None, ((1, 2), 2)])
def test_targets_are_nnunets(regions) -> None:
    scales = [[1, 1, 1], [0.5, 0.5, 0.5], [0.25, 0.5, 0.25]]
    labels = torch.from_numpy(np.random.default_rng(0).integers(-1, 3, (2, 1, *PATCH)).astype(np.int16))
    compose = nnUNetTrainer.get_validation_transforms(scales, foreground_labels=[1, 2], regions=regions)
    theirs = [compose(image=torch.zeros(1, *PATCH), segmentation=sample.clone())["segmentation"] for sample in labels]
    found = targets_of(regions, scales)(labels)
    for level, target in enumerate(found):
        assert torch.equal(target, torch.stack([sample[level] for sample in theirs]))
        assert target.dtype == theirs[0][level].dtype


def test_threads_do_not_change_what_is_drawn_and_an_epoch_can_be_repeated(preprocessed) -> None:
    plain, threaded = ours(preprocessed, 2, PATCH), ours(preprocessed, 2, PATCH, threads=2)
    straight = [next(plain) for _ in range(6)]
    assert all(torch.equal(next(threaded)["data"], batch["data"]) for batch in straight)
    threaded.start(1)
    second = [next(threaded)["data"] for _ in range(3)]
    plain.start(1)
    assert all(torch.equal(next(plain)["data"], data) for data in second)
    assert not torch.equal(second[0], straight[0]["data"])
    threaded.start(0)
    assert torch.equal(next(threaded)["target"], straight[0]["target"])
    threaded.close()


def test_turns_and_scales_are_distributed_as_nnunets() -> None:
    spatial, image = transforms()[0], torch.zeros(1, *PATCH)
    np.random.seed(0)  # noqa: NPY002 - batchgenerators draws from the global generator
    theirs = [spatial.get_parameters(image=image)["affine"] for _ in range(10_000)]
    augmentation, rng = augmentation_of(transforms(), PATCH), np.random.default_rng(0)
    mine = [augmentation.draw(rng, 1).affine for _ in range(10_000)]
    assert abs(np.mean([m is None for m in mine]) - np.mean([m is None for m in theirs])) < 0.025
    mine, theirs = ([m for m in found if m is not None] for found in (mine, theirs))
    for entry in np.ndindex(3, 3):
        assert ks_2samp([m[entry] for m in mine], [m[entry] for m in theirs]).pvalue > UNLIKELY
    assert ks_2samp([np.linalg.det(m) for m in mine], [np.linalg.det(m) for m in theirs]).pvalue > UNLIKELY


@pytest.mark.long
def test_ten_thousand_patches_have_nnunets_statistics(preprocessed) -> None:
    source = tuple(int(size) for size in get_patch_size(PATCH, ROTATION, ROTATION, ROTATION, (0.85, 1.25)))
    batch, batches = 20, 500
    manager = PlansManager(preprocessed.plans).get_label_manager(preprocessed.dataset_json)
    compose = nnUNetTrainer.get_training_transforms(
        PATCH, ROTATION, None, (0, 1, 2), False, [False], regions=((1, 2), 2)
    )
    theirs = nnUNetDataLoader(
        nnUNetDatasetBlosc2(str(folder_of(preprocessed))), batch, source, PATCH, manager, 0.33, transforms=compose
    )
    np.random.seed(0)  # noqa: NPY002
    torch.manual_seed(0)
    found = {"ours": [], "theirs": []}
    for name, loader in (("ours", ours(preprocessed, batch, source)), ("theirs", theirs)):
        for _ in range(batches):
            made = loader.generate_train_batch() if name == "theirs" else next(loader)
            data, target = made["data"].flatten(1), made["target"].float().flatten(2).mean(2)
            space = torch.stack([data.mean(1), data.std(1), data.amin(1), data.amax(1)], 1)
            found[name].append(torch.cat([space, target], 1).numpy())
    mine, peers = (np.concatenate(found[name]) for name in ("ours", "theirs"))
    assert len(mine) == len(peers) == 10_000
    for column in range(mine.shape[1]):
        assert ks_2samp(mine[:, column], peers[:, column]).pvalue > UNLIKELY, column
    # By place in the batch: the last third holds foreground where there is some.
    share = [(part[:, 4].reshape(batches, batch) > 0).mean(0) for part in (mine, peers)]
    assert np.abs(share[0] - share[1]).max() < 0.12
    assert share[0][14:].min() > share[0][:13].max()


CHANGES = ("noise", "blur", "brightness", "contrast", "low_resolution", "inverted_gamma", "gamma")
CHANNELS = 2


def theirs_drawn(composed: list, patch: tuple[int, ...]) -> dict[str, dict[int, float]]:
    """Return what nnU-Net draws for one sample: change → channel → parameter (the first axis's)."""
    image, found, gammas = torch.zeros(CHANNELS, *patch), {}, ["inverted_gamma", "gamma"]
    for transform in composed:
        inner = getattr(transform, "transform", None)
        if inner is None:
            continue
        kind = type(inner).__name__.removesuffix("Transform")
        names = {"GaussianNoise": "noise", "GaussianBlur": "blur", "MultiplicativeBrightness": "brightness"}
        names |= {"Contrast": "contrast", "SimulateLowResolution": "low_resolution"}
        name = names.get(kind) or gammas.pop(0)
        found[name] = {}
        if not transform.get_parameters()["apply_transform"]:
            continue
        drawn = inner.get_parameters(image=image)
        if name == "noise":
            found[name] = dict.fromkeys(range(CHANNELS), float(drawn["sigmas"]))
        elif name == "blur":
            chosen = [int(c) for c in drawn["apply_to_channel"].nonzero()]
            found[name] = {c: float(sigmas[0]) for c, sigmas in zip(chosen, drawn["sigmas"], strict=True)}
        else:
            key = {"low_resolution": "scales", "gamma": "gamma", "inverted_gamma": "gamma"}.get(name, "multipliers")
            chosen = [int(c) for c in drawn["apply_to_channel"]]
            found[name] = {c: float(v.reshape(-1)[-1]) for c, v in zip(chosen, drawn[key], strict=True)}
    return found


def ours_drawn(augmentation: Augmentation, rng: np.random.Generator) -> dict[str, dict[int, float]]:
    draw = augmentation.draw(rng, CHANNELS)
    found = {name: getattr(draw, name) for name in CHANGES if name != "noise"}
    found["blur"] = {channel: sigmas[0] for channel, sigmas in draw.blur.items()}
    return found | {"noise": dict.fromkeys(range(CHANNELS), draw.noise) if draw.noise else {}}


@pytest.mark.parametrize(("patch", "dummy_2d"), [((6, 8, 8), False), ((6, 8, 8), True), ((8, 8), False)])
def test_each_channel_is_changed_as_often_and_as_much_as_by_nnunet(patch, dummy_2d) -> None:
    composed, count = transforms(patch=patch, dummy_2d=dummy_2d), 4000
    np.random.seed(2)  # noqa: NPY002
    torch.manual_seed(2)
    theirs = [theirs_drawn(composed, patch) for _ in range(count)]
    augmentation, rng = augmentation_of(composed, patch), np.random.default_rng(2)
    mine = [ours_drawn(augmentation, rng) for _ in range(count)]
    for name in CHANGES:
        applied = [np.array([[c in draw[name] for c in range(CHANNELS)] for draw in made]) for made in (mine, theirs)]
        for pattern in np.ndindex(*[2] * CHANNELS):  # together, alone, and not at all
            share = [(found == pattern).all(1).mean() for found in applied]
            assert abs(share[0] - share[1]) < 4.5 * np.sqrt(2 * share[1] * (1 - share[1]) / count) + 1e-9, (
                name,
                pattern,
            )
        values = [[value for draw in made for value in draw[name].values()] for made in (mine, theirs)]
        assert ks_2samp(*values).pvalue > UNLIKELY, name
        both = [np.array([[*draw[name].values()] for draw in made if len(draw[name]) == 2]) for made in (mine, theirs)]
        alike = [np.mean(np.abs(pairs[:, 0] - pairs[:, 1]) < 1e-9) for pairs in both]
        assert alike == ([1, 1] if name == "noise" else [0, 0]), name  # one deviation for all channels, else one each
        if name != "noise":
            assert abs(np.corrcoef(both[0].T)[0, 1]) < 5 / np.sqrt(len(both[0])), name


@pytest.mark.parametrize(("patch", "dummy_2d"), [((6, 12, 8), True), ((12, 8), False)])
def test_turns_in_a_plane_are_distributed_as_nnunets(patch, dummy_2d) -> None:
    composed, count = transforms(patch=patch, dummy_2d=dummy_2d), 3000
    spatial = composed[1] if dummy_2d else composed[0]
    np.random.seed(0)  # noqa: NPY002
    theirs = [spatial.get_parameters(image=torch.zeros(1, *patch[-2:]))["affine"] for _ in range(count)]
    augmentation, rng = augmentation_of(composed, patch), np.random.default_rng(0)
    mine = [augmentation.draw(rng, 1).affine for _ in range(count)]
    mine, theirs = ([m[-2:, -2:] for m in found if m is not None] for found in (mine, theirs))
    assert abs(len(mine) - len(theirs)) < 0.05 * count
    for entry in np.ndindex(2, 2):
        assert ks_2samp([m[entry] for m in mine], [m[entry] for m in theirs]).pvalue > UNLIKELY


def test_what_happens_to_one_sample_says_nothing_of_the_next_or_of_another_change() -> None:
    augmentation, batch, batches = augmentation_of(transforms(), PATCH), 2, 4000
    rows = []
    for number in range(batches):
        rng = np.random.default_rng((12345, 0, 0, 0, number))  # as a loader seeds a batch
        draws = [augmentation.draw(rng, 1) for _ in range(batch)]
        rows.append([bool(getattr(d, name)) for d in draws for name in CHANGES] + [d.affine is not None for d in draws])
    table = np.array(rows, dtype=float)
    following = np.concatenate([table[:-1], table[1:]], axis=1)  # and of the batch after
    correlations = np.corrcoef(following.T) - np.eye(following.shape[1])
    assert np.abs(correlations).max() < 5 / np.sqrt(batches)


def test_no_batch_comes_twice_in_other_epochs_processes_or_threads(preprocessed) -> None:
    cases = [path.stem for path in folder_of(preprocessed).glob("*.pkl")]
    seen = {}
    for rank in range(2):
        for stream in range(2):
            loader = PatchLoader(
                CaseStore(folder_of(preprocessed), cases), Sampling(batch=1, patch=PATCH, source=PATCH),
                augmentation_of(transforms(), PATCH), targets_of(None, None), device=torch.device("cpu"),
                seed=(12345, rank, stream),
            )  # fmt: skip
            for place in np.ndindex(4, 15):
                raw = loader.read(*place)
                seen.setdefault(raw.seed, []).append((rank, stream, *place))
                (patch,) = raw.patches
                drawn = (patch.case, patch.source.corner, patch.source.image.sum().item(), repr(patch.draw))
                seen.setdefault(drawn, []).append((rank, stream, *place))
    assert [places for places in seen.values() if len(places) > 1] == []
    assert len(seen) == 2 * 2 * 2 * 4 * 15


def open_volumes() -> int:
    return sum("b2nd" in os.path.realpath(link) for link in Path("/proc/self/fd").iterdir())


@pytest.mark.skipif(sys.platform != "linux", reason="counts the files in /proc")
def test_few_files_are_open_at_once_however_many_threads_and_cases(preprocessed, tmp_path, monkeypatch) -> None:
    (first, *_) = folder_of(preprocessed).glob("*.pkl")
    cases = [f"case{number:02d}" for number in range(30)]
    for case in cases:
        for end in (".pkl", ".b2nd", "_seg.b2nd"):
            (tmp_path / f"{case}{end}").symlink_to(first.with_name(f"{first.stem}{end}"))
    monkeypatch.setattr(patches, "VOLUMES", patches.Kept(20))
    monkeypatch.setattr(patches, "PLACES", patches.Kept(1))
    loader = PatchLoader(
        CaseStore(tmp_path, cases), Sampling(batch=2, patch=PATCH, source=PATCH), None, targets_of(None, None),
        device=torch.device("cpu"), seed=(1,), threads=4,
    )  # fmt: skip
    before = open_volumes()
    batches = [next(loader)["data"] for _ in range(40)]
    loader.close()
    assert open_volumes() - before <= 20
    assert patches.VOLUMES.size <= 20
    monkeypatch.setattr(patches, "VOLUMES", patches.Kept(4096))
    again = PatchLoader(
        CaseStore(tmp_path, cases), loader.sampling, None, targets_of(None, None), device=torch.device("cpu"), seed=(1,)
    )
    assert all(torch.equal(next(again)["data"], batch) for batch in batches)


@pytest.mark.parametrize("end", [".pkl", ".b2nd", "_seg.b2nd"])
def test_a_damaged_preprocessed_case_is_named_with_the_way_out(preprocessed, tmp_path, end) -> None:
    (first, *_) = folder_of(preprocessed).glob("*.pkl")
    for each in (".pkl", ".b2nd", "_seg.b2nd"):
        data = first.with_name(f"{first.stem}{each}").read_bytes()
        (tmp_path / f"one{each}").write_bytes(data[: len(data) // 3] if each == end else data)
    sampling = Sampling(batch=1, patch=PATCH, source=PATCH)
    loader = PatchLoader(
        CaseStore(tmp_path, ["one"]), sampling, None, targets_of(None, None), device=torch.device("cpu"), seed=(1,)
    )
    with pytest.raises(TrainingError, match=f"{tmp_path}/one: the preprocessed case cannot be read") as caught:
        [next(loader) for _ in range(20)]
    assert f"delete {tmp_path}" in caught.value.hint


def test_settings_of_a_transform_that_ours_would_pass_over_are_not_guessed() -> None:
    stock = transforms()
    mirror = next(index for index, t in enumerate(stock) if isinstance(t, MirrorTransform))
    seldom = [*stock[:mirror], RandomTransform(stock[mirror], 0.3), *stock[mirror + 1 :]]
    with pytest.raises(UnknownTransformError, match=r"MirrorTransform with probability 0\.3"):
        augmentation_of(seldom, PATCH)
    spatial = [RandomTransform(stock[0], 0.5), *stock[1:]]
    with pytest.raises(UnknownTransformError, match=r"SpatialTransform with probability 0\.5"):
        augmentation_of(spatial, PATCH)
    two = transforms()
    gammas = [t.transform for t in two if "Gamma" in repr(t)]
    gammas[0].gamma = BGContrast((0.5, 2))
    with pytest.raises(UnknownTransformError, match="two ranges of gamma"):
        augmentation_of(two, PATCH)
    axes = transforms()
    next(t.transform for t in axes if "LowResolution" in repr(t)).ignore_axes = (0,)
    with pytest.raises(UnknownTransformError, match="ignore_axes"):
        augmentation_of(axes, PATCH)
