"""nnU-Net's trainer, whichever class the user names, kept in our run folder and made safe to kill.

`wrap` puts a mixin over the class and keeps the class's name, so the checkpoint says the name that nnU-Net and the
Spinal Cord Toolbox look up. Loss, schedule, sampling and network stay the class's own. What changes: where files go,
checkpoints that are written whole and hold plain values only, an epoch's random numbers that depend on the epoch and
not on what ran before (so a resumed training repeats the uninterrupted one), metrics.jsonl, and a validation without
worker pools.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import json
import math
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nnunetv2
import numpy as np
import torch
from nnunetv2.evaluation.evaluate_predictions import compute_metrics, save_summary_json
from nnunetv2.inference.export_prediction import export_prediction_from_logits
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import distributed

from trainers.core.environment import bf16_here, seed_everything
from trainers.core.errors import TrainingError
from trainers.core.files import atomic_path
from trainers.data.loader import PatchLoader
from trainers.segmentation.data_path import UnknownTransformError, loaders

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from trainers.core.progress import Progress

LATEST = "checkpoint_latest.pth"
FLAT = 2  # axes of a flat patch
SECONDS_BETWEEN_FIGURES = 60.0  # drawing progress.png costs half a second of CPU


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where one fold is trained and what it must know beyond nnU-Net's own arguments."""

    run: Path
    fold: int | str
    splits: list[dict[str, list[str]]]
    seed: int
    checkpoint_seconds: float
    progress: Progress
    precision: str = "auto"  # see config.py
    threads: int = 0  # that read patches ahead

    @property
    def folder(self) -> Path:
        """Return the fold's folder."""
        return self.run / f"fold_{self.fold}"


class InRunFolder(nnUNetTrainer):  # type: ignore[misc] # nnU-Net is untyped
    """Mixin over any nnUNetTrainer class; `place` is set on the class by `wrap`."""

    place: Place
    _best_ema: float | None
    _advance: Callable[..., None] | None = None
    _figure_at = -math.inf
    _saved_at = 0.0
    _bf16 = False

    @property
    def output_folder_base(self) -> str:
        """Return the run folder, whatever nnU-Net assigns."""
        return str(self.place.run)

    @output_folder_base.setter
    def output_folder_base(self, value: str) -> None:
        pass

    @property
    def output_folder(self) -> str:
        """Return the fold's folder, whatever nnU-Net assigns."""
        return str(self.place.folder)

    @output_folder.setter
    def output_folder(self, value: str) -> None:
        pass

    def do_split(self) -> tuple[list[str], list[str]]:
        """Return the run's own training and validation cases."""
        if self.place.fold == "all":
            cases = sorted({case for split in self.place.splits for cases in split.values() for case in cases})
            return cases, cases
        split = self.place.splits[int(self.place.fold)]
        return split["train"], split["val"]

    def plot_network_architecture(self) -> None:
        """Draw nothing: the figure needs a package that nobody has and hangs on large nets."""

    def on_train_start(self) -> None:
        """Start as nnU-Net does, then keep its progress figure from costing more than it shows."""
        super().on_train_start()
        self._saved_at = time.monotonic()
        draw = self.logger.plot_progress_png

        def draw_now_and_then(folder: str) -> None:
            if (
                time.monotonic() - self._figure_at >= SECONDS_BETWEEN_FIGURES
                or self.current_epoch + 1 == self.num_epochs
            ):
                draw(folder)
                self._figure_at = time.monotonic()

        self.logger.plot_progress_png = draw_now_and_then
        self.save_every = self.num_epochs + 1  # on_epoch_end below decides by the clock

    def initialize(self) -> None:
        """Build the network and lay it out in memory as its precision likes it."""
        super().initialize()
        self._bf16 = self.place.precision == "bf16" or (self.place.precision == "auto" and bf16_here(self.device))
        if self._bf16 and self.device.type == "cpu":
            # oneDNN's bfloat16 convolutions want the channels last: 2.2 times the speed of float32, 1.5 without.
            flat = len(self.configuration_manager.patch_size) == FLAT
            self.network.to(memory_format=torch.channels_last if flat else torch.channels_last_3d)

    def get_dataloaders(self) -> tuple[Any, Any]:
        """Return our loaders, or nnU-Net's where the trainer class loads or transforms in a way of its own."""
        if super().get_dataloaders.__func__ is nnUNetTrainer.get_dataloaders:
            try:
                return loaders(self, seed=self.place.seed, threads=self.place.threads)
            except UnknownTransformError as unknown:
                self.place.progress.say(f"nnU-Net's own loaders are used: the trainer asks for {unknown}")
        found: tuple[Any, Any] = super().get_dataloaders()
        return found

    def on_train_end(self) -> None:
        """End as nnU-Net does, and the threads of the loaders."""
        for loader in (self.dataloader_train, self.dataloader_val):
            if isinstance(loader, PatchLoader):
                loader.close()
        super().on_train_end()

    def on_epoch_start(self) -> None:
        """Seed by epoch and rank, so that a resumed epoch draws what it would have drawn."""
        super().on_epoch_start()
        seed_everything(self.place.seed + 1_000_003 * (self.current_epoch + 1) + self.local_rank)
        for loader in (self.dataloader_train, self.dataloader_val):
            if isinstance(loader, PatchLoader):
                loader.start(self.current_epoch)

    def train_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Train on one batch and move the bar."""
        with self._precision():
            result: dict[str, Any] = super().train_step(batch)
        if self._advance:
            self._advance()
        return result

    def validation_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Measure one batch."""
        with self._precision():
            result: dict[str, Any] = super().validation_step(batch)
        return result

    def _precision(self) -> AbstractContextManager[Any]:
        """Set what autocast computes in: nnU-Net asks for it without a type on CUDA, and not at all on a CPU."""
        if not self._bf16:
            return nullcontext()
        if self.device.type == "cuda":
            torch.set_autocast_dtype("cuda", torch.bfloat16)
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    def on_epoch_end(self) -> None:
        """Write the epoch's line to metrics.jsonl, and a checkpoint when the last one is old enough."""
        epoch = self.current_epoch
        if not math.isfinite(self.logger.get_value("train_losses", -1)):
            raise TrainingError(
                f"fold {self.place.fold}: the loss of epoch {epoch + 1} is not a number",
                hint="mreg data verify looks for bad images; else a smaller --set initial_lr=… may help",
            )
        super().on_epoch_end()
        if self.local_rank != 0:
            return
        value = self.logger.get_value
        line = {
            "epoch": epoch,
            "train_loss": value("train_losses", -1),
            "val_loss": value("val_losses", -1),
            "dice": value("dice_per_class_or_region", -1),
            "mean_dice_ema": value("ema_fg_dice", -1),
            "learning_rate": value("lrs", -1),
            "seconds": value("epoch_end_timestamps", -1) - value("epoch_start_timestamps", -1),
        }
        with (self.place.folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(plain(line)) + "\n")
        if self._advance:
            dice = " ".join(f"{x:.2f}" for x in plain(line["dice"]) if x is not None)
            text = f"epoch {epoch + 1}/{self.num_epochs} loss {line['train_loss']:.3f} Dice {dice}"
            self._advance(text, steps=0)
        due = time.monotonic() - self._saved_at >= self.place.checkpoint_seconds
        if due and self.current_epoch < self.num_epochs:
            self.current_epoch -= 1  # save_checkpoint adds one
            self.save_checkpoint(str(self.place.folder / LATEST))
            self.current_epoch += 1
            self._saved_at = time.monotonic()

    def save_checkpoint(self, filename: str) -> None:
        """Write the checkpoint whole, with plain Python numbers; skip checkpoint_best, which nobody ships."""
        if Path(filename).name == "checkpoint_best.pth" or self.local_rank != 0:
            return
        if self._best_ema is not None:
            self._best_ema = float(self._best_ema)
        curves = self.logger.local_logger.my_fantastic_logging
        for key, values in curves.items():
            curves[key] = plain(values)
        with atomic_path(Path(filename)) as temporary:
            super().save_checkpoint(str(temporary))

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        """Predict the validation cases as the Spinal Cord Toolbox will (no mirroring), in this process."""
        self.set_deep_supervision_enabled(False)
        self.network.eval()
        predictor = nnUNetPredictor(use_mirroring=False, device=self.device, allow_tqdm=False)
        predictor.manual_initialization(
            self.network, self.plans_manager, self.configuration_manager, None, self.dataset_json,
            type(self).__name__, self.inference_allowed_mirroring_axes,
        )  # fmt: skip
        folder = self.place.folder / "validation"
        folder.mkdir(exist_ok=True)
        cases = sorted(self.do_split()[1])
        ranks = distributed.get_world_size() if self.is_ddp else 1
        with self.place.progress.bar(f"validate fold {self.place.fold}", len(cases)) as advance:
            for case in cases[self.local_rank :: ranks]:
                data, _, _, properties = self.dataset_class(self.preprocessed_dataset_folder, [case]).load_case(case)
                logits = predictor.predict_sliding_window_return_logits(torch.from_numpy(np.array(data[:]))).cpu()
                export_prediction_from_logits(
                    logits, properties, self.configuration_manager, self.plans_manager, self.dataset_json,
                    str(folder / case), save_probabilities,
                )  # fmt: skip
                advance()
        if self.is_ddp:
            distributed.barrier()
        if self.local_rank == 0:
            self._summarise(folder, cases)
        self.set_deep_supervision_enabled(True)

    def _summarise(self, folder: Path, cases: list[str]) -> None:
        """Write nnU-Net's summary.json, with file names in place of this machine's paths."""
        labels = self.label_manager
        wanted = labels.foreground_regions if labels.has_regions else labels.foreground_labels
        truth = Path(self.preprocessed_dataset_folder_base) / "gt_segmentations"
        reader, ending = self.plans_manager.image_reader_writer_class(), self.dataset_json["file_ending"]
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
        self.print_to_log_file("Mean Validation Dice:", foreground.get("Dice"))

    def run_training(self) -> None:
        """Train the epochs that are left."""
        total, done = (epochs * self.num_iterations_per_epoch for epochs in (self.num_epochs, self.current_epoch))
        with self.place.progress.bar(f"train fold {self.place.fold}", total, completed=done) as advance:
            self._advance = advance
            super().run_training()


def _mean(values: list[float]) -> float:
    """Return the mean of the defined values; NaN where there is none, as nnU-Net writes it."""
    defined = [float(v) for v in values if not math.isnan(v)]
    return sum(defined) / len(defined) if defined else math.nan


def plain(value: Any) -> Any:
    """Return the value with NumPy scalars as Python numbers and NaN as None."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.generic | np.ndarray):
        value = value.item() if value.size == 1 else value.tolist()
    return None if isinstance(value, float) and math.isnan(value) else value


def wrap(trainer_class: type[nnUNetTrainer], place: Place) -> type[Any]:
    """Return the class with our mixin over it, under the class's own name."""
    return type(trainer_class.__name__, (InRunFolder, trainer_class), {"place": place})


def find_trainer_class(name: str, file: Path | None) -> type[nnUNetTrainer]:
    """Return the trainer class of that name from the repo's trainer_class.py or from nnU-Net.

    nnU-Net's own search imports every module on its way, among them those that need timm and torchvision; this one
    reads the sources and imports the one module that defines the class.
    """
    if file is not None:
        return _from_file(name, file)
    root = Path(nnunetv2.__path__[0])
    for source in sorted((root / "training" / "nnUNetTrainer").rglob("*.py")):
        if f"class {name}(" not in (text := source.read_text(encoding="utf-8")):
            continue
        if any(isinstance(node, ast.ClassDef) and node.name == name for node in ast.parse(text).body):
            module = ".".join(("nnunetv2", *source.relative_to(root).with_suffix("").parts))
            try:
                return getattr(importlib.import_module(module), name)  # type: ignore[no-any-return]
            except (ImportError, RuntimeError) as error:
                raise TrainingError(f"trainer {name}: its module {module} does not import: {error}") from error
    raise TrainingError(
        f"trainer {name!r} is neither one of nnU-Net's nor in a trainer_class.py",
        hint="put a file trainer_class.py with that class beside model.toml, or change [train] trainer",
    )


def _from_file(name: str, file: Path) -> type[nnUNetTrainer]:
    """Import the user's own trainer_class.py: their code, from their repo, run because they asked to train it."""
    spec = importlib.util.spec_from_file_location("trainer_class", file)
    if spec is None or spec.loader is None:
        raise TrainingError(f"{file}: cannot be imported")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = getattr(module, name, None)
    if not (isinstance(found, type) and issubclass(found, nnUNetTrainer)):
        raise TrainingError(f"{file}: has no class {name} that derives from nnUNetTrainer")
    return found
