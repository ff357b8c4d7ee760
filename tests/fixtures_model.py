"""Small nnU-Net models of any kind, with random weights, in the folder that nnU-Net and an archive have."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
from fixtures_run import DATASET_JSON
from fixtures_run import plans as tiny_plans

TRAINER = "nnUNetTrainer"


def make_plans(dimensions: int, channels: int, spacing: list[float]) -> dict[str, Any]:
    """Return plans of a network of two stages and some hundred weights."""
    plans = copy.deepcopy(tiny_plans())
    name = "3d_fullres" if dimensions == 3 else "2d"
    configuration = plans["configurations"].pop("3d_fullres")
    configuration.update(
        patch_size=[16] * dimensions,
        spacing=spacing[-dimensions:],
        normalization_schemes=["ZScoreNormalization"] * channels,
        use_mask_for_norm=[False] * channels,
    )
    keywords = configuration["architecture"]["arch_kwargs"]
    keywords.update(
        conv_op=f"torch.nn.modules.conv.Conv{dimensions}d",
        norm_op=f"torch.nn.modules.instancenorm.InstanceNorm{dimensions}d",
        kernel_sizes=[[3] * dimensions] * 2,
        strides=[[1] * dimensions, [2] * dimensions],
    )
    plans["configurations"] = {name: configuration}
    intensities = plans["foreground_intensity_properties_per_channel"]["0"]
    plans["foreground_intensity_properties_per_channel"] = {str(c): intensities for c in range(channels)}
    return plans


def write_model(
    folder: Path,
    *,
    labels: dict[str, Any] | None = None,
    order: list[int] | None = None,
    channels: int = 1,
    dimensions: int = 3,
    spacing: tuple[float, ...] = (1.0, 1.0, 1.0),
    orientation: str = "RPI",
    folds: tuple[str, ...] = ("0",),
    trainer: str = TRAINER,
) -> Path:
    """Write plans.json, dataset.json and a checkpoint a fold, each fold with other weights; return the folder."""
    import torch
    from dynamic_network_architectures.architectures.unet import PlainConvUNet

    plans = make_plans(dimensions, channels, list(spacing))
    (name,) = plans["configurations"]
    keywords = dict(plans["configurations"][name]["architecture"]["arch_kwargs"])
    keywords["conv_op"] = getattr(torch.nn, f"Conv{dimensions}d")
    keywords["norm_op"] = getattr(torch.nn, f"InstanceNorm{dimensions}d")
    keywords["nonlin"] = torch.nn.LeakyReLU
    labels = labels or {"background": 0, "sc": 1}
    heads = len(labels) - 1 if order else len(labels)
    folder.mkdir(parents=True)
    for fold in folds:
        torch.manual_seed(100 + sum(map(ord, fold)))
        network = PlainConvUNet(input_channels=channels, num_classes=heads, **keywords)
        checkpoint = {
            "network_weights": network.state_dict(),
            "init_args": {"configuration": name},
            "trainer_name": trainer,
            "inference_allowed_mirroring_axes": tuple(range(dimensions)),
        }
        (folder / f"fold_{fold}").mkdir()
        torch.save(checkpoint, folder / f"fold_{fold}" / "checkpoint_final.pth")
    document = {
        **DATASET_JSON,
        "channel_names": {str(channel): f"channel{channel}" for channel in range(channels)},
        "labels": labels,
        "image_orientation": orientation,
        **({"regions_class_order": order} if order else {}),
    }
    (folder / "dataset.json").write_text(json.dumps(document))
    (folder / "plans.json").write_text(json.dumps(plans))
    return folder


def job(model: Path, cases: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    """Return a prediction job as the light half writes it."""
    return {
        "kind": "predict",
        "model": str(model),
        "device": "cpu",
        "mirror": False,
        "half": False,
        "allow_code": False,
        "cases": [{"folds": ["0"], **case} for case in cases],
        **changes,
    }


def stock_labels(model: Path, images: list[Path], *, folds: tuple[str, ...] = ("0",), mirror: bool = False) -> Any:
    """Return what nnU-Net's own predictor gives, as (x, y, z)."""
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    predictor = nnUNetPredictor(use_mirroring=mirror, device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(model), folds)
    (labels,) = predictor.predict_from_files_sequential([[str(image) for image in images]], None)
    return np.asarray(labels).transpose()
