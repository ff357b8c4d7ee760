"""A run as a training leaves it, made by nnU-Net's own trainer from a plan of a tiny network, without training.

Checkpoint, debug.json, log and figure are written by nnU-Net, so they hold what its files hold: numpy scalars,
tensors with several names, momentum, host name, paths and names of cases.
"""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest

NAME = "model_seg_sc_t2"
DATASET = "Dataset501_SpinalCordT2w"
TRAINER_FOLDER = "nnUNetTrainer__nnUNetPlans__3d_fullres"
CASES = [f"sub-amu{number:02d}_T2w" for number in range(1, 5)]
DATASET_JSON = {
    "name": "SpinalCordT2w",
    "description": "Spinal cord in T2-weighted images",
    "licence": "CC-BY-4.0",
    "channel_names": {"0": "T2w"},
    "labels": {"background": 0, "sc": 1},
    "numTraining": 4,
    "numTest": 1,
    "file_ending": ".nii.gz",
    "image_orientation": "RPI",
    "source": {"kind": "bids", "commit": "0123456789abcdef0123456789abcdef01234567"},
}
FINGERPRINT = {
    "spacings": [[1.0, 0.5, 0.5]] * 4,
    "shapes_after_crop": [[16, 24, 24]] * 4,
    "foreground_intensity_properties_per_channel": {
        "0": {
            "max": 9.0,
            "mean": 4.5,
            "median": 4.25,
            "min": 0.5,
            "percentile_00_5": 0.6,
            "percentile_99_5": 8.9,
            "std": 1.5,
        }
    },
    "median_relative_size_after_cropping": 1.0,
}
MODEL_TOML = f"""\
[model]
name = "{NAME}"
description = "Spinal cord on T2-weighted MRI"
licence = "MIT"

[data]
dataset = "data/raw/{DATASET}"
"""


def plans(features: tuple[int, ...] = (4, 8), patch: int = 16) -> dict[str, Any]:
    """Return nnU-Net's plan of a U-Net with one stage for each number of features."""
    stages = len(features)
    conv, norm = "torch.nn.modules.conv.Conv3d", "torch.nn.modules.instancenorm.InstanceNorm3d"
    data_resampling = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
    return {
        "dataset_name": DATASET,
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": [1.0, 0.5, 0.5],
        "original_median_shape_after_transp": [16, 24, 24],
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {
            "3d_fullres": {
                "data_identifier": "nnUNetPlans_3d_fullres",
                "preprocessor_name": "DefaultPreprocessor",
                "batch_size": 2,
                "patch_size": [patch] * 3,
                "median_image_size_in_voxels": [16.0, 24.0, 24.0],
                "spacing": [1.0, 0.5, 0.5],
                "normalization_schemes": ["ZScoreNormalization"],
                "use_mask_for_norm": [False],
                "resampling_fn_data": "resample_data_or_seg_to_shape",
                "resampling_fn_seg": "resample_data_or_seg_to_shape",
                "resampling_fn_data_kwargs": data_resampling,
                "resampling_fn_seg_kwargs": {**data_resampling, "is_seg": True, "order": 1},
                "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
                "resampling_fn_probabilities_kwargs": {**data_resampling, "order": 1},
                "architecture": {
                    "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
                    "arch_kwargs": {
                        "n_stages": stages,
                        "features_per_stage": list(features),
                        "conv_op": conv,
                        "kernel_sizes": [[3, 3, 3]] * stages,
                        "strides": [[1, 1, 1]] + [[2, 2, 2]] * (stages - 1),
                        "n_conv_per_stage": [2] * stages,
                        "n_conv_per_stage_decoder": [2] * (stages - 1),
                        "conv_bias": True,
                        "norm_op": norm,
                        "norm_op_kwargs": {"eps": 1e-05, "affine": True},
                        "dropout_op": None,
                        "dropout_op_kwargs": None,
                        "nonlin": "torch.nn.LeakyReLU",
                        "nonlin_kwargs": {"inplace": True},
                    },
                    "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
                },
                "batch_dice": False,
            }
        },
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": FINGERPRINT["foreground_intensity_properties_per_channel"],
    }


def train_nothing(results: Path, plan: dict[str, Any]) -> Path:
    """Let nnU-Net build the network, step once and write its files; return the fold's folder.

    The variables nnUNet_raw, nnUNet_preprocessed and nnUNet_results must name `results`.
    """
    import numpy as np
    import torch
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    torch.manual_seed(0)
    preprocessed = results / DATASET / "nnUNetPlans_3d_fullres"
    preprocessed.mkdir(parents=True)
    (preprocessed / f"{CASES[0]}.b2nd").touch()  # nnU-Net tells the kind of dataset from the names of its files
    training = {"training": [{"image": f"/data/nnUNet_raw/{case}.nii.gz"} for case in CASES]}
    trainer = nnUNetTrainer(
        {**plan, "continue_training": False}, "3d_fullres", 0, {**DATASET_JSON, **training}, torch.device("cpu")
    )
    trainer.initialize()
    trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
    patch = torch.randn(1, 1, *plan["configurations"]["3d_fullres"]["patch_size"])
    sum(out.square().mean() for out in trainer.network(patch)).backward()
    trainer.optimizer.step()
    trainer.print_plans()
    for key, value in {
        "train_losses": np.float32(-0.5), "val_losses": np.float32(-0.4), "dice_per_class_or_region": [np.float64(0.8)],
        "mean_fg_dice": np.float64(0.8), "lrs": 0.01, "epoch_start_timestamps": 1.0, "epoch_end_timestamps": 3.5,
    }.items():  # fmt: skip
        trainer.logger.log(key, value, 0)
    trainer._best_ema = np.float64(0.8)
    trainer._save_debug_information()
    trainer.logger.plot_progress_png(trainer.output_folder)
    trainer.print_to_log_file(f"Using splits from existing split file: {results}/splits_final.json")
    trainer.print_to_log_file(f"predicting {CASES[3]}")
    trainer.save_checkpoint(str(Path(trainer.output_folder) / "checkpoint_final.pth"))
    return Path(trainer.output_folder)


def _write(folder: Path, **documents: object) -> None:
    for name, document in documents.items():
        (folder / f"{name}.json").write_text(json.dumps(document, indent=2) + "\n")


def write_documents(run: Path, plan: dict[str, Any]) -> None:
    """Write the JSON files that mreg keeps in a run."""
    settings = {"configuration": "3d_fullres", "trainer": "nnUNetTrainer", "folds": [0], "seed": 12345}
    figures = {"dice": 0.9, "hd95_mm": 1.0, "precision": 0.91, "recall": 0.89, "volume_difference_ml": -0.1,
               "volume_difference_percent": -2.0, "reference_ml": 5.0, "predicted_ml": 4.9}  # fmt: skip
    _write(
        run,
        config={
            "recipe": "nnunet",
            "trainer": "nnUNetTrainer",
            "plans": "nnUNetPlans",
            "configuration": "3d_fullres",
            "settings": settings,
            "dataset": {
                "name": DATASET,
                "id": 501,
                "path": f"data/raw/{DATASET}",
                "hash": "ab" * 32,
                "image_orientation": "RPI",
                "num_training": 4,
            },
            "repo": NAME,
        },
        dataset=DATASET_JSON,
        plans=plan,
        dataset_fingerprint=FINGERPRINT,
        splits_final=[{"train": CASES[:3], "val": CASES[3:]}],
        environment={
            "python": "3.11.7",
            "platform": "Linux x86_64",
            "packages": {"mreg": "0.1.0", "torch": "2.13.0", "numpy": "2.4.6", "nnunetv2": "2.8.1"},
            "device": {"type": "cpu", "name": "x86_64"},
            "threads": 2,
            "seed": 12345,
            "dataset_hash": "ab" * 32,
        },
        evaluation={
            "dataset": DATASET,
            "split": "test",
            "checkpoint": "checkpoint_final.pth",
            "folds": [0],
            "half": False,
            "cases": {"sub-unf01_T2w": {"sc": figures}},
            "mean": {"sc": figures},
        },
    )


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a complete run (one fold) inside a model's repo, shared by all tests: copy before changing anything."""
    root = tmp_path_factory.mktemp("tiny") / NAME
    results = root.parent / "nnUNet_results"
    run = root / "runs" / "3d_fullres-1a2b3c4d"
    run.mkdir(parents=True)
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # other people's deprecations
        for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
            patch.setenv(name, str(results))
        train_nothing(results, plans()).rename(run / "fold_0")
    (root / "model.toml").write_text(MODEL_TOML)
    write_documents(run, plans())
    return run


@pytest.fixture
def repo_with_run(tiny_run: Path, tmp_path: Path) -> Path:
    """Return a copy of the repo that holds `tiny_run`, for this test alone."""
    return Path(shutil.copytree(tiny_run.parents[1], tmp_path / NAME))
