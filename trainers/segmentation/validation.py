"""The final validation of a fold: its cases predicted as the Spinal Cord Toolbox will, without mirroring."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.evaluation.evaluate_predictions import compute_metrics, save_summary_json
from nnunetv2.inference.export_prediction import export_prediction_from_logits
from torch import distributed

from trainers.core.checkpoints import FINAL
from trainers.core.environment import is_out_of_memory
from trainers.core.errors import TrainingError
from trainers.core.stopping import Stopped
from trainers.segmentation.label_maps import segment
from trainers.segmentation.sliding_window import SlidingWindow, inference_type


def validate(trainer: Any, *, save_probabilities: bool) -> None:
    """Predict the fold's validation cases in this process and write nnU-Net's summary.json.

    Cases that the finished network has predicted before are left as they are. Raises `Stopped` between two cases.
    """
    trainer.set_deep_supervision_enabled(False)
    place, window = trainer.place, _window(trainer)
    folder = place.folder / "validation"
    folder.mkdir(exist_ok=True)
    cases = sorted(trainer.do_split()[1])
    ranks = distributed.get_world_size() if trainer.is_ddp else 1
    about = (trainer.plans_manager, trainer.configuration_manager, trainer.dataset_json)
    file_ending = trainer.dataset_json["file_ending"]
    with place.progress.bar(f"validate fold {place.fold}", len(cases)) as advance:
        for case in cases[trainer.local_rank :: ranks]:
            if not trainer.is_ddp and place.stopping and (reason := place.stopping.reason()):
                raise Stopped(reason)
            file = folder / f"{case}{file_ending}"
            if not save_probabilities and _is_newer(file, place.folder / FINAL):
                advance()
                continue
            data, _, _, properties = trainer.dataset_class(trainer.preprocessed_dataset_folder, [case]).load_case(case)
            volume = np.asarray(data[:], dtype=np.float32)
            if save_probabilities:
                logits = torch.cat([slab.cpu() for slab in window.slabs(torch.from_numpy(volume))], 1)
                export_prediction_from_logits(
                    logits, properties, trainer.configuration_manager, trainer.plans_manager, trainer.dataset_json,
                    str(folder / case), save_probabilities,
                )  # fmt: skip
            else:
                labels = _segmented(case, window, volume, properties, about)
                partial = folder / f".{case}.part{file_ending}"  # SimpleITK tells the format from the ending
                trainer.plans_manager.image_reader_writer_class().write_seg(labels, str(partial), properties)
                partial.replace(file)
            advance()
    if trainer.is_ddp:
        distributed.barrier()
    if trainer.local_rank == 0:
        _summarise(trainer, folder, cases)
    trainer.set_deep_supervision_enabled(True)


def _segmented(case: str, window: SlidingWindow, volume: Any, properties: Any, about: tuple[Any, ...]) -> Any:
    """Return a case's label map; raise `TrainingError` where it is too large for the device."""
    try:
        return segment(window, volume, properties, *about)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise TrainingError(
            f"{case}: {window.device} has not enough memory to predict its {volume.shape[1:]} voxels",
            hint="the fold is trained: the same command where there is more memory, or --device cpu, validates it",
        ) from error


def _is_newer(file: Path, checkpoint: Path) -> bool:
    return file.is_file() and checkpoint.is_file() and file.stat().st_mtime_ns >= checkpoint.stat().st_mtime_ns


def _window(trainer: Any) -> SlidingWindow:
    """Return how the trainer's network goes over a volume, in the precision that it was trained in."""
    network = trainer.network.module if trainer.is_ddp else trainer.network
    return SlidingWindow(
        network=getattr(network, "_orig_mod", network),  # compiled for the training's batches
        tile=tuple(trainer.configuration_manager.patch_size),
        device=trainer.device,
        precision=inference_type(trainer.place.precision, trainer.device),
    )


def _summarise(trainer: Any, folder: Path, cases: list[str]) -> None:
    """Write nnU-Net's summary.json, with file names in place of this machine's paths."""
    labels = trainer.label_manager
    wanted = labels.foreground_regions if labels.has_regions else labels.foreground_labels
    truth = Path(trainer.preprocessed_dataset_folder_base) / "gt_segmentations"
    reader, ending = trainer.plans_manager.image_reader_writer_class(), trainer.dataset_json["file_ending"]
    results = []
    for case in cases:
        name = f"{case}{ending}"
        result = compute_metrics(str(truth / name), str(folder / name), reader, wanted, labels.ignore_label)
        results.append({**result, "reference_file": name, "prediction_file": name})
    measures = list(results[0]["metrics"][wanted[0]]) if results else []
    mean = {label: {m: _mean([r["metrics"][label][m] for r in results]) for m in measures} for label in wanted}
    foreground = {m: _mean([values[m] for values in mean.values()]) for m in measures}
    for result in results:
        result["metrics"] = {
            label: {m: float(v) for m, v in values.items()} for label, values in result["metrics"].items()
        }
    save_summary_json(
        {"metric_per_case": results, "mean": mean, "foreground_mean": foreground}, str(folder / "summary.json")
    )
    trainer.print_to_log_file("Mean Validation Dice:", foreground.get("Dice"))


def _mean(values: list[float]) -> float:
    """Return the mean of the defined values; NaN where there is none, as nnU-Net writes it."""
    defined = [float(v) for v in values if not math.isnan(v)]
    return sum(defined) / len(defined) if defined else math.nan
