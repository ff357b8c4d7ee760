"""The final validation of a fold: its cases predicted as the Spinal Cord Toolbox will, without mirroring."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.evaluation.evaluate_predictions import compute_metrics, save_summary_json
from nnunetv2.inference.export_prediction import export_prediction_from_logits
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from torch import distributed


def validate(trainer: Any, *, save_probabilities: bool) -> None:
    """Predict the fold's validation cases in this process and write nnU-Net's summary.json."""
    trainer.set_deep_supervision_enabled(False)
    trainer.network.eval()
    predictor = nnUNetPredictor(use_mirroring=False, device=trainer.device, allow_tqdm=False)
    predictor.manual_initialization(
        trainer.network, trainer.plans_manager, trainer.configuration_manager, None, trainer.dataset_json,
        type(trainer).__name__, trainer.inference_allowed_mirroring_axes,
    )  # fmt: skip
    place = trainer.place
    folder = place.folder / "validation"
    folder.mkdir(exist_ok=True)
    cases = sorted(trainer.do_split()[1])
    ranks = distributed.get_world_size() if trainer.is_ddp else 1
    with place.progress.bar(f"validate fold {place.fold}", len(cases)) as advance:
        for case in cases[trainer.local_rank :: ranks]:
            data, _, _, properties = trainer.dataset_class(trainer.preprocessed_dataset_folder, [case]).load_case(case)
            logits = predictor.predict_sliding_window_return_logits(torch.from_numpy(np.array(data[:]))).cpu()
            export_prediction_from_logits(
                logits, properties, trainer.configuration_manager, trainer.plans_manager, trainer.dataset_json,
                str(folder / case), save_probabilities,
            )  # fmt: skip
            advance()
    if trainer.is_ddp:
        distributed.barrier()
    if trainer.local_rank == 0:
        _summarise(trainer, folder, cases)
    trainer.set_deep_supervision_enabled(True)


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
