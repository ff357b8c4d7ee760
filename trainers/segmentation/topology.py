"""Plans with another patch, batch or network than nnU-Net's planner chose; the preprocessed data stay the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nnunetv2.experiment_planning.experiment_planners.network_topology import get_pool_and_conv_props

from trainers.core.errors import TrainingError

if TYPE_CHECKING:
    from trainers.segmentation.config import SegmentationSettings

# Smallest edge of the deepest feature map, as in nnU-Net's default planner.
SMALLEST_FEATURE_MAP = 4
# nnU-Net gives the deepest of its outputs no weight: with two stages nothing is left and the loss is 0/0.
FEWEST_STAGES = 3


def override(plans: dict[str, Any], settings: SegmentationSettings) -> dict[str, Any]:
    """Return the plans with batch size, patch size and network width of the settings; the data stay the same."""
    configurations = plans["configurations"]
    plan = {**configurations[settings.configuration]}
    if settings.batch_size is not None:
        plan["batch_size"] = settings.batch_size
    if settings.patch_size is not None or settings.features is not None:
        plan |= _topology(plan, settings)
    return {**plans, "configurations": {**configurations, settings.configuration: plan}}


def _topology(plan: dict[str, Any], settings: SegmentationSettings) -> dict[str, Any]:
    """Lay out strides and kernels for the patch with nnU-Net's own rule, cut to the number of stages asked for."""
    spacing = plan["spacing"][-len(plan["patch_size"]) :]
    patch = settings.patch_size or plan["patch_size"]
    if len(patch) != len(spacing):
        raise TrainingError(
            f"patch_size {list(patch)} has {len(patch)} axes, "
            f"configuration {settings.configuration!r} has {len(spacing)}"
        )
    _, strides, kernels, patch, _ = get_pool_and_conv_props(spacing, list(patch), SMALLEST_FEATURE_MAP, 999999)
    if len(strides) < FEWEST_STAGES:
        raise TrainingError(f"a patch of {list(settings.patch_size or ())} voxels is too small for nnU-Net's network")
    architecture = plan["architecture"]["arch_kwargs"]
    features = list(settings.features or architecture["features_per_stage"])
    if settings.features is not None and len(features) > len(strides):
        raise TrainingError(
            f"features {features} has {len(features)} stages, "
            f"a patch of {[int(p) for p in patch]} voxels allows {len(strides)}",
            hint="name fewer stages or a larger patch_size",
        )
    stages = min(len(strides), len(features))
    width = max(features)
    features = (features + [width] * stages)[:stages]
    blocks = "n_conv_per_stage" if "n_conv_per_stage" in architecture else "n_blocks_per_stage"
    changed = {
        "n_stages": stages,
        "features_per_stage": features,
        "strides": [[int(s) for s in stride] for stride in strides[:stages]],
        "kernel_sizes": [[int(k) for k in kernel] for kernel in kernels[:stages]],
        blocks: (architecture[blocks] * stages)[:stages],
        "n_conv_per_stage_decoder": (architecture["n_conv_per_stage_decoder"] * stages)[: stages - 1],
    }
    return {
        "patch_size": [int(p) for p in patch],
        "architecture": {**plan["architecture"], "arch_kwargs": {**architecture, **changed}},
    }
