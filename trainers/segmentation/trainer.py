"""nnU-Net's trainer, whichever class the user names, kept in our run folder and made safe to kill.

`wrap` puts a mixin over the class and keeps the class's name, so the checkpoint says the name that nnU-Net and the
Spinal Cord Toolbox look up. Loss, schedule, sampling and network stay the class's own. What changes: where files go,
checkpoints that are written whole and hold plain values only, an epoch's random numbers that depend on the epoch and
not on what ran before (so a resumed training repeats the uninterrupted one), metrics.jsonl, and a validation without
worker pools.
"""

from __future__ import annotations

import math
import time
from contextlib import closing, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import distributed

from trainers.core import trackers
from trainers.core.checkpoints import BEST, LATEST, PREVIOUS, save
from trainers.core.distributed import Ranks
from trainers.core.environment import bf16_here, seed_everything
from trainers.core.errors import TrainingError
from trainers.core.estimate import Estimate
from trainers.core.stopping import Stopped, Stopping
from trainers.data.loader import PatchLoader
from trainers.segmentation.data_path import UnknownTransformError, loaders
from trainers.segmentation.pretrained import plain
from trainers.segmentation.validation import validate

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from trainers.core.progress import Progress
    from trainers.segmentation.pretrained import Beginning

STEPS = "mreg_steps"  # key of nnU-Net's log for the losses of an unfinished epoch
# Methods of nnU-Net's whose results our loaders do not ask for.
LOADING = ("get_tr_and_val_datasets", "get_validation_transforms")
FLAT = 2  # axes of a flat patch
SECONDS_BETWEEN_FIGURES = 60.0  # drawing progress.png costs half a second of CPU
TOO_MANY_SKIPPED = 50  # steps in a row without a finite loss


class _NoNumberError(Exception):
    """The gradient of a step is not finite: nothing was changed."""


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
    trackers: tuple[str, ...] = ()
    stopping: Stopping | None = None
    threads: int = 0  # that read patches ahead
    beginning: Beginning | None = None  # a pre-trained encoder

    @property
    def folder(self) -> Path:
        """Return the fold's folder."""
        return self.run / f"fold_{self.fold}"


class InRunFolder(nnUNetTrainer):  # type: ignore[misc] # nnU-Net is untyped
    """Mixin over any nnUNetTrainer class; `place` is set on the class by `wrap`."""

    place: Place
    _best_ema: float | None
    _advance: Callable[..., None]
    _estimate: Estimate
    _log: trackers.Trackers
    _figure_at = -math.inf
    _saved_at = 0.0
    _bf16 = False
    _outputs: list[dict[str, float]]  # of the steps of the epoch that are done; NaN where one was skipped
    _skipped_in_a_row = 0
    _guarded: Any = None  # optimiser that takes no step which is not finite

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
        self.save_every = self.num_epochs + 1  # train_step below decides by the clock

    def initialize(self) -> None:
        """Build the network and lay it out in memory as its precision likes it."""
        if self.place.beginning:
            self.enable_deep_supervision = False  # as the benchmark fine-tunes
        super().initialize()
        if self.place.beginning:
            self.place.beginning.start(plain(self.network), self.place.folder, self.place.progress)
        self._outputs = []  # not in a constructor: nnU-Net reads the constructor's arguments from its own frame
        self._bf16 = self.place.precision == "bf16" or (self.place.precision == "auto" and bf16_here(self.device))
        if self._bf16 and self.device.type == "cpu":
            # oneDNN's bfloat16 convolutions want the channels last: 2.2 times the speed of float32, 1.5 without.
            flat = len(self.configuration_manager.patch_size) == FLAT
            self.network.to(memory_format=torch.channels_last if flat else torch.channels_last_3d)

    def configure_optimizers(self, *stage: Any, **more: Any) -> tuple[Any, Any]:
        """Return the trainer class's own, with the rates of a fine-tuning where it starts from an encoder.

        Classes that train in stages ask again, and name the stage.
        """
        optimiser, rates = super().configure_optimizers(*stage, **more)
        if self.grad_scaler is None and optimiser is not self._guarded:  # on CUDA the scaler does it
            optimiser.register_step_pre_hook(_refuse)
            self._guarded = optimiser
        if self.place.beginning:
            rates = self.place.beginning.rates(optimiser, plain(self.network), self.num_epochs)
        return optimiser, rates

    def get_dataloaders(self) -> tuple[Any, Any]:
        """Return our loaders, or nnU-Net's where the trainer class loads or transforms in a way of its own."""
        inherited: Any = super()
        changed = [name for name in LOADING if getattr(type(self), name) is not getattr(nnUNetTrainer, name)]
        if inherited.get_dataloaders.__func__ is nnUNetTrainer.get_dataloaders and not changed:
            try:
                return loaders(self, seed=self.place.seed, threads=self.place.threads)
            except UnknownTransformError as unknown:
                self.place.progress.say(f"nnU-Net's own loaders are used: the trainer asks for {unknown}")
        else:
            what = ", ".join(changed or ["get_dataloaders"])
            self.place.progress.say(f"nnU-Net's own loaders are used: the trainer has its own {what}")
        found: tuple[Any, Any] = super().get_dataloaders()
        return found

    def on_train_end(self) -> None:
        """End as nnU-Net does, and the threads of the loaders."""
        for loader in (self.dataloader_train, self.dataloader_val):
            if isinstance(loader, PatchLoader):
                loader.close()
        super().on_train_end()
        if self.local_rank == 0:
            (self.place.folder / PREVIOUS).unlink(missing_ok=True)

    def on_epoch_start(self) -> None:
        """Go to the epoch's batch at which an earlier process stopped, in general the first."""
        super().on_epoch_start()
        for loader, number in ((self.dataloader_train, len(self._outputs)), (self.dataloader_val, 0)):
            if isinstance(loader, PatchLoader):
                loader.start(self.current_epoch, number)

    def train_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Train on one batch, and tell and save what is due."""
        result: dict[str, Any] = {"loss": np.array(math.nan)}
        with self._precision(), suppress(_NoNumberError):
            result = super().train_step(batch)
        loss = float(result["loss"])
        self._outputs.append({"loss": loss})
        if not math.isfinite(loss):
            self._skipped(batch)
        else:
            self._skipped_in_a_row = 0
        self._estimate.step()
        self._advance()
        if len(self._outputs) < self.num_iterations_per_epoch:
            self._stop_or_save()
        return result

    def _skipped(self, batch: dict[str, Any]) -> None:
        """Tell of a step that could not be taken; a training that takes none any more has failed."""
        self._skipped_in_a_row += 1
        cases = ", ".join(sorted({str(case) for case in batch.get("keys", ())}))
        where = f"epoch {self.current_epoch + 1}, step {len(self._outputs)}"
        if self._skipped_in_a_row == 1:
            self.place.progress.say(f"warning: {where} is skipped: its loss or gradient is not finite (cases: {cases})")
        if self._skipped_in_a_row >= TOO_MANY_SKIPPED:
            raise TrainingError(
                f"fold {self.place.fold}: {self._skipped_in_a_row} steps in a row without a finite loss, until {where}",
                hint="mreg data verify looks for bad images; else a smaller --set initial_lr=… may help",
            )

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
        epoch, skipped = self.current_epoch, sum(not math.isfinite(output["loss"]) for output in self._outputs)
        self._outputs = []
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
            "skipped": skipped,
        }
        self._log.log(line)
        dice = " ".join(f"{x:.2f}" for x in trackers.plain(line["dice"]) if x is not None)
        self._advance(f"epoch {epoch + 1}/{self.num_epochs} loss {line['train_loss']:.3f} Dice {dice}", steps=0)
        if self.current_epoch < self.num_epochs:
            self._stop_or_save()

    def _stop_or_save(self) -> None:
        """Save when the last checkpoint is old, or when the training must stop, which it then does."""
        reason = self.place.stopping.reason() if self.place.stopping else ""
        if self.is_ddp:
            ranks = Ranks(rank=self.local_rank, size=distributed.get_world_size())
            told = ranks.any(bool(reason), self.device)
            reason = reason or ("another process was told to stop" if told else "")
        within = bool(self._outputs)
        due = time.monotonic() - self._saved_at >= self.place.checkpoint_seconds and not self._skipped_in_a_row
        if reason or (due and self.place.checkpoint_seconds > 0) or (due and not within):
            self.current_epoch -= 1  # nnU-Net's save_checkpoint adds one
            self.save_checkpoint(str(self.place.folder / LATEST))
            self.current_epoch += 1
            self._saved_at = time.monotonic()
        if reason:
            raise Stopped(reason)

    def save_checkpoint(self, filename: str) -> None:
        """Write the checkpoint whole, with plain Python numbers; skip checkpoint_best, which nobody ships."""
        if Path(filename).name == BEST or self.local_rank != 0:
            return
        if self._best_ema is not None:
            self._best_ema = float(self._best_ema)
        curves = self.logger.local_logger.my_fantastic_logging
        for key, values in curves.items():
            curves[key] = trackers.plain(values)
        # The steps of an epoch that is not over travel in nnU-Net's log, which it gives back as it is.
        if self._outputs:
            curves[STEPS] = [output["loss"] for output in self._outputs]
        try:
            save(Path(filename), lambda temporary: super(InRunFolder, self).save_checkpoint(str(temporary)))
        finally:
            curves.pop(STEPS, None)

    def load_checkpoint(self, filename_or_checkpoint: dict[str, Any] | str) -> None:
        """Load a checkpoint, and the steps of the epoch that it was written in."""
        super().load_checkpoint(filename_or_checkpoint)
        steps = self.logger.local_logger.my_fantastic_logging.pop(STEPS, [])
        self._outputs = [{"loss": loss} for loss in steps]

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        """Predict and measure the validation cases."""
        validate(self, save_probabilities=save_probabilities)

    def run_training(self) -> None:
        """Train what is left: nnU-Net's own sequence of hooks, which can begin within an epoch."""
        steps = self.num_iterations_per_epoch
        done = self.current_epoch * steps + len(self._outputs)
        also = self.place.trackers if self.local_rank == 0 else ()
        self._log = trackers.Trackers(self.place.folder, also, figure=False, epoch=self.current_epoch)
        self._estimate = Estimate(
            self.place.progress, self.device, iterations=steps, validations=self.num_val_iterations_per_epoch,
            epochs_left=self.num_epochs - done / steps,
        )  # fmt: skip
        title = f"train fold {self.place.fold}"
        with closing(self._log), self.place.progress.bar(title, self.num_epochs * steps, completed=done) as bar:
            self._advance = bar
            self.on_train_start()
            while self.current_epoch < self.num_epochs:
                self._train_epoch()
            self.on_train_end()

    def _seed(self) -> None:
        """Let a step's random numbers depend on seed, step and rank: a resumed training draws what it would have."""
        step = self.current_epoch * self.num_iterations_per_epoch + len(self._outputs)
        seed_everything(self.place.seed + 1_000_003 * (step + 1) + self.local_rank)

    def _train_epoch(self) -> None:
        self.on_epoch_start()
        self.on_train_epoch_start()
        while len(self._outputs) < self.num_iterations_per_epoch:
            self._seed()  # ahead of the batch: nnU-Net's own loaders draw from the global generators
            self.train_step(next(self.dataloader_train))
        self.on_train_epoch_end(_without_skipped(self._outputs))
        with torch.no_grad():
            self.on_validation_epoch_start()
            batches = range(self.num_val_iterations_per_epoch)
            outputs = [self.validation_step(next(self.dataloader_val)) for _ in batches]
            self.on_validation_epoch_end(outputs)
        self.on_epoch_end()


def _refuse(optimiser: torch.optim.Optimizer, *_: Any) -> None:
    """Keep a gradient that is not finite from the weights: one such step would be the end of the training."""
    gradients = [p.grad for group in optimiser.param_groups for p in group["params"] if p.grad is not None]
    norms = [torch.linalg.vector_norm(gradient) for gradient in gradients]
    if norms and not torch.isfinite(torch.stack(norms)).all():
        raise _NoNumberError


def _without_skipped(outputs: list[dict[str, float]]) -> list[dict[str, Any]]:
    """Return as many losses with the mean of the steps that were taken in the place of the others."""
    taken = [output["loss"] for output in outputs if math.isfinite(output["loss"])]
    mean = sum(taken) / len(taken) if taken else math.nan
    losses = (output["loss"] for output in outputs)
    return [{"loss": np.array(loss if math.isfinite(loss) else mean)} for loss in losses]


def wrap(trainer_class: type[nnUNetTrainer], place: Place) -> type[Any]:
    """Return the class with our mixin over it, under the class's own name."""
    return type(trainer_class.__name__, (InRunFolder, trainer_class), {"place": place})
