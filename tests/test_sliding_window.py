"""Sliding window and label map: bit for bit those of nnU-Net's predictor, in a fraction of its memory."""

import contextlib
import io
import itertools
import json
import math
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from fixtures_model import job, write_model
from hypothesis import given, settings
from hypothesis import strategies as st

from trainers.core.errors import TrainingError
from trainers.segmentation.sliding_window import SlidingWindow, inference_type, tile_starts, tile_weights

SC = {"background": 0, "sc": 1}
REGIONS = {"labels": {"background": 0, "sc": [1, 2], "lesion": 2}, "order": [1, 2]}
T2 = "nnUNet_raw/Dataset501_SpinalCordT2w/imagesTr/sub-errsm11_chunk-1_T2w_0000.nii.gz"
MTS = [f"nnUNet_raw/Dataset502_SpinalCordMTS/imagesTr/sub-unf05_chunk-2_MTS_000{c}.nii.gz" for c in range(2)]


@pytest.fixture(scope="module", autouse=True)
def _nnunet() -> None:
    """Import nnU-Net once; its dependencies warn while they are imported."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import nnunetv2.inference.predict_from_raw_data
        import nnunetv2.training.nnUNetTrainer.nnUNetTrainer  # noqa: F401


def stock(model: Any, folds: tuple[str, ...], *, mirror: bool) -> Any:
    """Return nnU-Net's predictor of a loaded model."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    with contextlib.redirect_stdout(io.StringIO()):
        made = nnUNetPredictor(use_mirroring=mirror, device=torch.device("cpu"), allow_tqdm=False)
    made.manual_initialization(
        model.network, model.plans, model.configuration, [model.weights[fold] for fold in folds], model.dataset_json,
        model.trainer, model.mirror_axes,
    )  # fmt: skip
    return made


def loaded(folder: Path, folds: tuple[str, ...] = ("0",), **arguments: Any) -> Any:
    from trainers.segmentation.network import load_model

    return load_model(write_model(folder, folds=folds, **arguments), list(folds))


def read(paths: list[Path]) -> tuple[np.ndarray, tuple[float, ...]]:
    """Return images (C, Z, Y, X) and the spacing along Z, Y and X."""
    images = [nib.load(path) for path in paths]
    spacing = tuple(float(size) for size in images[0].header.get_zooms()[:3])[::-1]
    return np.stack([np.asarray(image.dataobj).transpose().astype(np.float32) for image in images]), spacing


KINDS = {
    "3d": ({"spacing": (1.0, 1.0, 1.0)}, [T2], ("0",), False),
    "mirrored": ({"spacing": (1.3, 1.3, 1.3)}, [T2], ("0",), True),
    "two channels, thick slices, three folds": (
        {"channels": 2, "spacing": (5.0, 0.9, 0.9)}, MTS, ("0", "1", "2"), False,
    ),
    "thick target slices, regions, mirrored": ({**REGIONS, "spacing": (4.0, 1.2, 0.9)}, [T2], ("0",), True),
    "2d": ({"dimensions": 2, "spacing": (1.0, 1.2, 0.7)}, [T2], ("0", "1"), False),
    "2d regions, mirrored": ({**REGIONS, "dimensions": 2}, [T2], ("0",), True),
    "smaller than the tile": ({"spacing": (5.0, 4.5, 4.0)}, [T2], ("0", "1"), True),
    "2d, smaller than the tile": ({"dimensions": 2, "spacing": (1.0, 9.0, 5.0)}, [T2], ("0",), False),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_logits_and_labels_are_those_of_nnunets_predictor(test_data, tmp_path, kind):
    from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape

    from trainers.segmentation.label_maps import segment
    from trainers.segmentation.preprocess import preprocess_image

    arguments, names, folds, mirror = KINDS[kind]
    model = loaded(tmp_path / "model", folds, **arguments)
    about = (model.plans, model.configuration, model.dataset_json)
    images, spacing = read([test_data / name for name in names])
    images[:, :3] = images[:, :, -2:] = 0  # to be cropped
    images = images[:, :30, :40, :]
    own = model.configuration.preprocessor_class(verbose=False)
    data, _, _ = own.run_case_npy(images, None, {"spacing": list(spacing)}, *about)
    volume, properties = preprocess_image(images.copy(), spacing, *about)
    assert volume.shape == data.shape
    assert np.abs(volume - data).max() < 1e-4

    expected = stock(model, folds, mirror=mirror).predict_logits_from_preprocessed_data(torch.from_numpy(volume))
    window = SlidingWindow(
        network=model.network, tile=tuple(model.configuration.patch_size), device=torch.device("cpu"),
        weights=tuple(model.weights[fold] for fold in folds), mirror_axes=model.mirror_axes if mirror else (),
    )  # fmt: skip
    found = torch.cat(list(window.slabs(torch.from_numpy(volume))), 1)
    assert found.dtype == expected.dtype == torch.float16
    assert found.shape == expected.shape
    difference = (found.float() - expected.float()).abs()
    # Several tiles at one go may change a network's last bit of 32, and then a sum's last of 16.
    assert difference.max() <= 4e-3 * expected.abs().max()
    assert difference.mean() <= 1e-4 * expected.abs().max()

    labels = segment(window, volume, properties, *about)
    manager = model.plans.get_label_manager(model.dataset_json)
    wanted = convert_predicted_logits_to_segmentation_with_correct_shape(
        found, model.plans, model.configuration, manager, properties
    )
    assert labels.dtype == wanted.dtype == np.uint8
    assert labels.shape == images.shape[1:]
    assert np.count_nonzero(labels != wanted) <= 2e-5 * labels.size  # ties within the last bit of 16
    assert len(np.unique(labels)) > 1


def test_the_order_of_sums_is_nnunets_so_a_tile_at_a_time_gives_its_very_bits(test_data, tmp_path, monkeypatch):
    from trainers.segmentation import sliding_window

    monkeypatch.setitem(sliding_window.VOXELS_AT_ONCE, "cpu", 0)
    model = loaded(tmp_path / "model", ("0", "1"))
    volume = torch.from_numpy(read([test_data / T2])[0] / 100)
    expected = stock(model, ("0", "1"), mirror=False).predict_logits_from_preprocessed_data(volume)
    window = SlidingWindow(
        network=model.network, tile=(16, 16, 16), device=torch.device("cpu"), weights=tuple(model.weights.values())
    )
    assert torch.equal(torch.cat(list(window.slabs(volume)), 1), expected)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 400), st.integers(1, 130))
def test_tiles_begin_where_nnunets_do_and_cover_the_axis(size, tile):
    from nnunetv2.inference.sliding_window_prediction import compute_steps_for_sliding_window

    size = max(size, tile)
    found = tile_starts(size, tile)
    assert [found] == compute_steps_for_sliding_window((size,), (tile,), 0.5)
    assert found[0] == 0
    assert found[-1] == size - tile
    assert all(b - a <= math.ceil(tile / 2) for a, b in itertools.pairwise(found))


@pytest.mark.parametrize("tile", [(16, 16, 16), (48, 48, 32), (7, 5, 9), (72, 56), (5, 1, 3)])
def test_weights_are_nnunets_to_the_last_bit(tile):
    from nnunetv2.inference.sliding_window_prediction import compute_gaussian

    expected = compute_gaussian(tile, sigma_scale=1 / 8, value_scaling_factor=10, device=torch.device("cpu"))
    assert torch.equal(tile_weights(tile), expected)
    assert expected.min() > 0


@settings(deadline=None, max_examples=40)
@given(
    st.tuples(*[st.integers(1, 24)] * 3), st.tuples(*[st.integers(1, 40)] * 3), st.sampled_from([None, 0, 1, 2]),
    st.integers(1, 9),
)  # fmt: skip
def test_logits_by_rows_are_interpolated_as_nnunet_interpolates_them_all(grid, shape, axis, rows):
    from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg

    from trainers.segmentation.label_maps import interpolated

    volume = np.random.default_rng(0).normal(0, 4, (2, *grid)).astype(np.float16)
    slabs = torch.from_numpy(volume).split(rows, 1)
    found = torch.cat(list(interpolated(slabs, grid, shape, axis)), 1).numpy()
    expected = resample_data_or_seg(volume, shape, False, axis, 1, axis is not None, 0)
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    assert np.abs(found.astype(np.float32) - expected).max() <= 2**-7  # one step of 16 bits below 16


class Constant(torch.nn.Module):
    """A network that says the same of every voxel."""

    def __init__(self, *values: float) -> None:
        super().__init__()
        self.values = values

    def forward(self, tiles: torch.Tensor) -> torch.Tensor:
        return torch.stack([torch.full_like(tiles[:, 0], value) for value in self.values], 1)


def test_logits_that_16_bits_cannot_sum_are_summed_in_32(tmp_path):
    from trainers.segmentation.label_maps import segment

    model = loaded(tmp_path / "model")
    window = SlidingWindow(network=Constant(10_000, 20_000), tile=(16, 16, 16), device=torch.device("cpu"))
    volume = np.zeros((1, 20, 24, 20), dtype=np.float32)
    with pytest.raises(OverflowError):
        list(window.slabs(torch.from_numpy(volume)))
    properties = {
        "spacing": [1.0] * 3, "shape_before_cropping": (20, 30, 20),
        "bbox_used_for_cropping": [[0, 20], [2, 26], [0, 20]],
        "shape_after_cropping_and_before_resampling": (20, 24, 20),
    }  # fmt: skip
    labels = segment(window, volume, properties, model.plans, model.configuration, model.dataset_json)
    assert labels[:, 2:26].all()
    assert not labels[:, :2].any()


def test_a_network_that_gives_no_numbers_is_refused():
    window = SlidingWindow(network=Constant(0, math.nan), tile=(8, 8), device=torch.device("cpu"))
    with pytest.raises(TrainingError, match="not numbers"):
        list(window.slabs(torch.zeros(1, 3, 12, 12)))


RUN_JOBS = """
import json, sys
from trainers.segmentation.predict import run
print(json.dumps([run(job)["peak_memory_bytes"] for job in json.loads(sys.argv[1])]))
"""


def test_only_a_few_rows_of_logits_are_ever_held(test_data, tmp_path):
    """Fifty classes in a long volume: all logits would take 220 MB in 16 bits, and as much again resampled."""
    names = {"background": 0, **{f"part{number}": number for number in range(1, 50)}}
    folder = write_model(tmp_path / "model", labels=names)
    voxels = np.tile(np.asarray(nib.load(test_data / T2).dataobj), (1, 1, 12))[:48, :56]
    nib.save(nib.Nifti1Image(voxels, np.diag([-1.0, 1.0, 0.9, 1.0])), tmp_path / "whole.nii.gz")
    jobs = []
    for part, end in (("short", 60), ("long", None)):
        nib.save(nib.load(tmp_path / "whole.nii.gz").slicer[:, :, :end], tmp_path / f"{part}.nii.gz")
        case = {"name": part, "images": [str(tmp_path / f"{part}.nii.gz")], "output": str(tmp_path / "out.nii.gz")}
        jobs.append(job(folder, [case], threads=1))
    call = [sys.executable, "-W", "ignore", "-c", RUN_JOBS, json.dumps(jobs)]
    done = subprocess.run(call, capture_output=True, check=True, cwd=Path(__file__).parents[1])
    peaks = json.loads(done.stdout)
    logits = 2 * 50 * voxels.size
    assert logits > 200e6
    assert peaks[1] - peaks[0] < 0.2 * logits


def test_bfloat16_changes_few_labels(test_data, tmp_path):
    from trainers.segmentation.runner import Runner

    model = loaded(tmp_path / "model")
    path, cpu = test_data / T2, torch.device("cpu")
    labels = [
        Runner(model=model, device=cpu, precision=precision).predict((path,), ("0",), "RPI")
        for precision in ("native", "bf16")
    ]
    assert inference_type("bf16", cpu) == torch.bfloat16
    assert inference_type("native", cpu) == torch.float32
    assert inference_type("native", torch.device("cuda")) == torch.float16
    different = np.mean(labels[0] != labels[1])
    assert 0 < different < 0.02


def test_an_image_beyond_the_memory_is_refused_before_it_is_read(test_data, tmp_path, monkeypatch):
    from trainers.segmentation import runner

    model = loaded(tmp_path / "model")
    monkeypatch.setattr(runner, "free_memory", lambda: 2_000_000)
    monkeypatch.setattr(runner, "preprocess_image", lambda *_: pytest.fail("it was read"))
    with pytest.raises(TrainingError, match=r"T2w.*needs about .* GB of memory, 0\.0 are free"):
        runner.Runner(model=model, device=torch.device("cpu")).predict((test_data / T2,), ("0",), "RPI")


def test_a_memory_that_ends_on_the_way_is_answered_with_what_to_change(test_data, tmp_path, monkeypatch):
    from trainers.segmentation import runner

    model = loaded(tmp_path / "model")
    monkeypatch.setattr(runner, "segment", lambda *_: torch.empty(1 << 50))
    with pytest.raises(TrainingError, match=r"T2w.*not enough memory on cpu for shape") as caught:
        runner.Runner(model=model, device=torch.device("cpu")).predict((test_data / T2,), ("0",), "RPI")
    assert "crop the image" in caught.value.hint
