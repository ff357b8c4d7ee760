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
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunetv2.experiment_planning.experiment_planners import default_experiment_planner
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
from nnunetv2.experiment_planning.experiment_planners.residual_unets import residual_encoder_unet_planners
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from trainers.core.cases import each_case
from trainers.core.environment import cpu_count
from trainers.core.errors import TrainingError
from trainers.core.files import read_json, write_json
from trainers.data.resample import new_shape
from trainers.segmentation.config import PLANNERS, PLANS_NAMES, SegmentationSettings
from trainers.segmentation.fingerprint import facts, fingerprint
from trainers.segmentation.preprocess import is_nnunets_own, preprocess, save
from trainers.segmentation.raw_cases import RawCases, training_files
from trainers.segmentation.topology import override

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager

    from trainers.core.progress import Progress

LOADERS = "nnUNet_n_proc_DA"
AXES = 3
KEEP_BYTES = 1 << 30  # of raw cases between fingerprint and preprocessing; beyond that they are read again
# Bytes that a case takes at most for each voxel: of a channel, and beside the channels.
READING, RAW, RESAMPLED = (8, 22), (8, 6), (8, 62)


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """Everything that a trainer needs, ready on disk."""

    plans: dict[str, Any]
    dataset_json: dict[str, Any]
    folder: Path  # CACHE/DatasetNNN_Name


def prepare(dataset: Path, cache: Path, settings: SegmentationSettings, threads: int, progress: Progress) -> Prepared:
    """Run the steps that are not in the cache yet; nnUNet_raw and nnUNet_preprocessed must point into `cache`."""
    link = cache / "raw" / dataset.name
    link.parent.mkdir(parents=True, exist_ok=True)
    if not link.exists():
        link.unlink(missing_ok=True)  # the dataset was moved
        link.symlink_to(dataset, target_is_directory=True)
    folder = cache / dataset.name
    dataset_json = read_json(dataset / "dataset.json")
    cases = RawCases(link, dataset_json, keep=KEEP_BYTES)
    _fingerprint(folder / "dataset_fingerprint.json", cases, threads, progress)
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
    _preprocess(cases, folder, plans, settings.configuration, threads, progress)
    return Prepared(plans=override(plans, settings), dataset_json=dataset_json, folder=folder)


def _fingerprint(target: Path, cases: RawCases, threads: int, progress: Progress) -> None:
    if target.is_file() and _is_json(target):
        return
    with progress.stage("fingerprint"), progress.bar("fingerprint", len(cases.files)) as advance:
        found = each_case(
            lambda case: facts(cases.read(case), len(cases.files)), list(cases.files), threads, advance,
            nbytes=lambda case: nbytes(cases, case),
        )  # fmt: skip
        write_json(target, fingerprint([found[case] for case in cases.files], str(cases.dataset.resolve())))


def nbytes(
    cases: RawCases, case: str, plans: PlansManager | None = None, configuration: ConfigurationManager | None = None
) -> int:
    """Return about the most memory that a case takes: to be read, and with a configuration to be preprocessed."""
    shape, spacing = cases.header(case)
    voxels, channels = math.prod(shape), len(cases.files[case]["images"])
    reading = voxels * (READING[0] * channels + READING[1])
    if plans is None or configuration is None or len(shape) != AXES:
        return reading
    along = [spacing[axis] for axis in plans.transpose_forward]
    target = list(configuration.spacing)
    size = new_shape([shape[axis] for axis in plans.transpose_forward], along, along[: AXES - len(target)] + target)
    resampled = math.prod(size) * (RESAMPLED[0] * channels + RESAMPLED[1])
    return max(reading, voxels * (RAW[0] * channels + RAW[1]) + resampled)


def _is_json(path: Path) -> bool:
    """Whether the file is whole: nnU-Net may have been killed while it wrote it."""
    try:
        read_json(path)
    except ValueError:
        return False
    return True


@contextmanager
def _planning() -> Iterator[None]:
    """Keep nnU-Net's planner from two things: a pool of forks to list files, and no thread at all."""
    listing, loaders = default_experiment_planner.get_filenames_of_train_images_and_targets, os.environ[LOADERS]
    default_experiment_planner.get_filenames_of_train_images_and_targets = lambda folder, document: training_files(
        Path(folder), document
    )
    os.environ[LOADERS] = str(max(1, int(loaders)))  # the planner takes it for a number of threads
    try:
        yield
    finally:
        default_experiment_planner.get_filenames_of_train_images_and_targets = listing
        os.environ[LOADERS] = loaders


def _plan(name: str, planner: str, target: Path) -> None:
    if planner == "default":
        plan_class = ExperimentPlanner
    else:
        plan_class = getattr(residual_encoder_unet_planners, PLANNERS[planner])
    # nnU-Net writes the file itself, in place: let it write another one and rename that.
    partial = f"{target.stem}.part"
    with _planning():
        plans = plan_class(name, plans_name=partial).plan_experiment()
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
    cases: RawCases, folder: Path, plans: dict[str, Any], configuration: str, threads: int, progress: Progress
) -> None:
    """Preprocess the cases that are missing."""
    manager = PlansManager(plans)
    settings = manager.get_configuration(configuration)
    out = folder / settings.data_identifier
    out.mkdir(parents=True, exist_ok=True)
    _ground_truth(cases.files, folder / "gt_segmentations", cases.dataset_json["file_ending"])
    missing = [case for case in cases.files if not (out / f"{case}.pkl").is_file()]
    if not missing:
        return
    ours = is_nnunets_own(settings.configuration)
    # Cores that have no case of their own help to compress.
    packers = max(1, cpu_count() // min(threads, len(missing)))

    def one(case: str) -> None:
        if ours:
            arrays = preprocess(cases.read(case), manager, settings, cases.dataset_json)
            cases.drop(case)
            save(out, case, arrays, tuple(settings.patch_size), packers)
        else:
            _nnunets_way(cases, case, out, manager, settings)

    with progress.stage("preprocess"), progress.bar("preprocess", len(missing)) as advance:
        each_case(one, missing, threads, advance, nbytes=lambda case: nbytes(cases, case, manager, settings))


def _nnunets_way(cases: RawCases, case: str, out: Path, plans: PlansManager, settings: ConfigurationManager) -> None:
    """Preprocess with the class that the plans name, which is not nnU-Net's default one."""
    partial = out / f".{case}.part"
    for file in out.glob(f".{case}.part*"):
        file.unlink()
    files = cases.files[case]
    settings.preprocessor_class(verbose=False).run_case_save(
        str(partial), files["images"], files["label"], plans, settings, cases.dataset_json
    )
    for ending in (".b2nd", "_seg.b2nd", ".pkl"):
        Path(f"{partial}{ending}").replace(out / f"{case}{ending}")


def _ground_truth(cases: dict[str, dict[str, Any]], folder: Path, ending: str) -> None:
    """Keep the labels beside the preprocessed data, as nnU-Net does for its validation."""
    folder.mkdir(parents=True, exist_ok=True)
    for case, files in cases.items():
        target = folder / f"{case}{ending}"
        if not target.is_file():
            temporary = folder / f".{case}.part"
            shutil.copyfile(files["label"], temporary)
            temporary.replace(target)
