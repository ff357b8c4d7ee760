"""The patches that our loaders give, against those of nnU-Net's own loader from the same preprocessed cases."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from nnunetv2.training.data_augmentation.compute_initial_patch_size import get_patch_size
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainerDA5 import nnUNetTrainerDA5
from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainerNoDA import nnUNetTrainerNoDA
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from scipy.stats import ks_2samp

from trainers.core.progress import Progress
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
