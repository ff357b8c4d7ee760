"""From a raw dataset to what nnU-Net trains on: fingerprint, plans and preprocessed cases, each computed once.

The cache folder belongs to one content of the dataset (its name holds the hash), so what is there is never stale:

    CACHE/raw/DatasetNNN_Name -> the dataset          nnU-Net finds data sets by folder and number
    CACHE/DatasetNNN_Name/dataset.json dataset_fingerprint.json nnUNetPlans.json gt_segmentations/
    CACHE/DatasetNNN_Name/nnUNetPlans_3d_fullres/     CASE.b2nd CASE_seg.b2nd CASE.pkl; whole when its .pkl is there
"""

from __future__ import annotations

import math
import os
import shutil
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
from nnunetv2.experiment_planning.experiment_planners.network_topology import get_pool_and_conv_props
from nnunetv2.experiment_planning.experiment_planners.residual_unets import residual_encoder_unet_planners
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets

from trainers.core.errors import TrainingError
from trainers.core.files import read_json, write_json
from trainers.segmentation.config import PLANNERS, PLANS_NAMES, SegmentationSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trainers.core.progress import Progress

# Below this many voxels a second process costs more (it imports torch: about 2 s) than it saves.
VOXELS_WORTH_A_PROCESS = 2e7
# Smallest edge of the deepest feature map, as in nnU-Net's default planner.
SMALLEST_FEATURE_MAP = 4
# nnU-Net gives the deepest of its outputs no weight: with two stages nothing is left and the loss is 0/0.
FEWEST_STAGES = 3


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """Everything that a trainer needs, ready on disk."""

    plans: dict[str, Any]
    dataset_json: dict[str, Any]
    folder: Path  # CACHE/DatasetNNN_Name


def prepare(dataset: Path, cache: Path, settings: SegmentationSettings, workers: int, progress: Progress) -> Prepared:
    """Run the steps that are not in the cache yet; nnUNet_raw and nnUNet_preprocessed must point into `cache`."""
    link = cache / "raw" / dataset.name
    link.parent.mkdir(parents=True, exist_ok=True)
    if not link.exists():
        link.unlink(missing_ok=True)  # the dataset was moved
        link.symlink_to(dataset, target_is_directory=True)
    folder = cache / dataset.name
    dataset_json = read_json(dataset / "dataset.json")
    _fingerprint(folder, dataset.name, workers, progress)
    plans_file = folder / f"{PLANS_NAMES[settings.planner]}.json"
    if not plans_file.is_file():
        with progress.stage("plan"):
            _plan(dataset.name, settings.planner, plans_file)
    plans = read_json(plans_file)
    if settings.configuration not in plans["configurations"]:
        raise TrainingError(
            f"configuration {settings.configuration!r} is not in the plan of {dataset.name}",
            hint=f"choose one of: {', '.join(plans['configurations'])}",
        )
    _preprocess(dataset, folder, plans, settings.configuration, workers, progress)
    return Prepared(plans=override(plans, settings), dataset_json=dataset_json, folder=folder)


def _fingerprint(folder: Path, name: str, workers: int, progress: Progress) -> None:
    target = folder / "dataset_fingerprint.json"
    if target.is_file() and _is_json(target):
        return
    with progress.stage("fingerprint"):
        extractor = DatasetFingerprintExtractor(name, max(1, workers), verbose=False)
        extractor.show_progress_bar = False
        extractor.run(overwrite_existing=True)


def _is_json(path: Path) -> bool:
    """Whether the file is whole: nnU-Net may have been killed while it wrote it."""
    try:
        read_json(path)
    except ValueError:
        return False
    return True


def _plan(name: str, planner: str, target: Path) -> None:
    if planner == "default":
        plan_class = ExperimentPlanner
    else:
        plan_class = getattr(residual_encoder_unet_planners, PLANNERS[planner])
    loaders = os.environ["nnUNet_n_proc_DA"]
    os.environ["nnUNet_n_proc_DA"] = str(max(1, int(loaders)))  # the planner takes it for a number of threads
    # nnU-Net writes the file itself, in place: let it write another one and rename that.
    partial = f"{target.stem}.part"
    plans = plan_class(name, plans_name=partial).plan_experiment()
    os.environ["nnUNet_n_proc_DA"] = loaders
    (target.parent / f"{partial}.json").unlink(missing_ok=True)
    text = repr(partial)
    for configuration in plans["configurations"].values():
        if "data_identifier" in configuration:
            configuration["data_identifier"] = configuration["data_identifier"].replace(partial, target.stem)
    plans["plans_name"] = target.stem
    if text in repr(plans):
        raise TrainingError(f"{target}: nnU-Net's plan names itself in an unexpected place")
    write_json(target, plans)


def _preprocess(
    dataset: Path, folder: Path, plans: dict[str, Any], configuration: str, workers: int, progress: Progress
) -> None:
    """Preprocess the cases that are missing, several at once where that pays."""
    manager = PlansManager(plans)
    out = folder / manager.get_configuration(configuration).data_identifier
    out.mkdir(parents=True, exist_ok=True)
    dataset_json = read_json(dataset / "dataset.json")
    cases = get_filenames_of_train_images_and_targets(str(folder.parent / "raw" / dataset.name), dataset_json)
    _ground_truth(cases, folder / "gt_segmentations", dataset_json["file_ending"])
    missing = [case for case in cases if not (out / f"{case}.pkl").is_file()]
    if not missing:
        return
    voxels = sum(math.prod(shape) for shape in read_json(folder / "dataset_fingerprint.json")["shapes_after_crop"])
    jobs = [
        (str(out), case, cases[case]["images"], cases[case]["label"], plans, configuration, dataset_json)
        for case in missing
    ]
    with progress.stage("preprocess"), progress.bar("preprocess", len(jobs)) as advance:
        for _ in _run(jobs, workers if voxels > VOXELS_WORTH_A_PROCESS else 1):
            advance()


def _run(jobs: list[tuple[Any, ...]], workers: int) -> Iterator[None]:
    if workers <= 1:
        for job in jobs:
            preprocess_case(*job)
            yield
        return
    with ProcessPoolExecutor(min(workers, len(jobs)), mp_context=get_context("spawn")) as pool:
        for future in as_completed([pool.submit(preprocess_case, *job) for job in jobs]):
            future.result()
            yield


def preprocess_case(
    out: str,
    case: str,
    images: list[str],
    label: str,
    plans: dict[str, Any],
    configuration: str,
    dataset_json: dict[str, Any],
) -> None:
    """Preprocess one case as nnU-Net does, under temporary names; its .pkl, renamed last, says that it is whole."""
    manager = PlansManager(plans)
    settings = manager.get_configuration(configuration)
    partial = Path(out, f".{case}.part")
    for file in Path(out).glob(f".{case}.part*"):
        file.unlink()  # blosc2 refuses to overwrite what a killed process left behind
    settings.preprocessor_class(verbose=False).run_case_save(
        str(partial), images, label, manager, settings, dataset_json
    )
    for ending in (".b2nd", "_seg.b2nd", ".pkl"):
        Path(f"{partial}{ending}").replace(Path(out, f"{case}{ending}"))


def _ground_truth(cases: dict[str, dict[str, Any]], folder: Path, ending: str) -> None:
    """Keep the labels beside the preprocessed data, as nnU-Net does for its validation."""
    folder.mkdir(parents=True, exist_ok=True)
    for case, files in cases.items():
        target = folder / f"{case}{ending}"
        if not target.is_file():
            temporary = folder / f".{case}.part"
            shutil.copyfile(files["label"], temporary)
            temporary.replace(target)


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
