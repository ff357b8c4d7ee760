"""Fingerprint and plans of a collection, as nnssl writes them: voxel sizes of the headers, three configurations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from trainers.data.nifti import open_image, voxel_mm
from trainers.data.orientation import Reorientation

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

PLANS = "nnsslPlans"
CONFIGURATIONS = ("onemmiso", "median", "noresample")
RESAMPLING = "resample_data_or_seg_to_shape"


def spacing_of(path: Path, orientation: str | None) -> tuple[float, float, float]:
    """Return an image's voxel size along Z, Y and X in mm, its axes turned to `orientation`; reads the header only."""
    image = open_image(path)
    spacing = voxel_mm(image)
    x, y, z = Reorientation.to(orientation, image.affine).spacing(spacing) if orientation else spacing
    return z, y, x


def make_plans(name: str, spacings: Sequence[Sequence[float]], orientation: str | None) -> dict[str, Any]:
    """Return nnsslPlans.json: the axis of the thickest slices comes first in every configuration.

    The patch size is the method's to choose: the plans leave it open.
    """
    middle = np.median(np.asarray(spacings, dtype=np.float64), axis=0)
    first = int(np.argmax(middle))
    forward = [first, *(axis for axis in range(len(middle)) if axis != first)]
    turned = [float(middle[axis]) for axis in forward]
    targets: dict[str, list[float] | None] = {"onemmiso": [1.0, 1.0, 1.0], "median": turned, "noresample": None}
    return {
        "dataset_name": name,
        "plans_name": PLANS,
        "original_median_spacing_after_transp": turned,
        "image_reader_writer": "SimpleITKIO",
        "image_orientation": orientation,  # ours: nnssl leaves orientations as they are
        "transpose_forward": forward,
        "transpose_backward": [forward.index(axis) for axis in range(len(forward))],
        "configurations": {key: _configuration(key, target) for key, target in targets.items()},
        "experiment_planner_used": "FixedResEncUNetPlanner",
    }


def _configuration(name: str, spacing: list[float] | None) -> dict[str, Any]:
    return {
        "data_identifier": f"{PLANS}_{name}",
        "preprocessor_name": "DefaultPreprocessor" if spacing else "NoResamplingPreprocessor",
        "spacing": spacing,
        "patch_size": None,
        "normalization_schemes": ["ZScoreNormalization"],
        "use_mask_for_norm": [False],
        "resampling_fn_data": RESAMPLING,
        "resampling_fn_data_kwargs": {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None},
        "resampling_fn_mask": RESAMPLING,
        "resampling_fn_mask_kwargs": {"is_seg": True, "order": 1, "order_z": 0, "force_separate_z": None},
    }
