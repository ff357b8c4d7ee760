"""The loop of every recipe that is not nnU-Net's: steps, validation, checkpoints, and an end that can be gone on from.

A step's random numbers depend on the seed, the epoch, the iteration and the process alone, so a training that is killed
at any moment and started again repeats what it had not saved, to the last bit on a CPU.
"""

from __future__ import annotations

import math
import time
from contextlib import closing, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from trainers.core import checkpoints, trackers
from trainers.core.distributed import Ranks
from trainers.core.environment import bf16_here, is_out_of_memory, seed_everything
from trainers.core.errors import TrainingError
from trainers.core.estimate import Estimate
from trainers.core.optimisers import OptimiserSettings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from torch import Tensor

    from trainers.core.progress import Progress
    from trainers.core.stopping import Stopping

Positive = Annotated[int, Field(ge=1)]
LOSS = "loss"
TOO_MANY_SKIPPED = 50  # steps in a row without a finite loss


class LoopSettings(BaseModel):
    """Length, precision and habits of a training."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    epochs: Positive = Field(1000, description="epochs")
    iterations: Positive = Field(250, description="steps an epoch")
    optimiser: OptimiserSettings = Field(
        default_factory=lambda: OptimiserSettings.model_validate({}), description="optimiser and schedule"
    )
    precision: Literal["auto", "bf16", "fp16", "fp32"] = Field(
        "auto", description="numbers to compute in; auto: bf16 where the hardware has it, else fp32"
    )
    ema: Annotated[float, Field(gt=0, lt=1)] | None = Field(None, description="decay of averaged weights, if wanted")
    seed: Annotated[int, Field(ge=0)] = Field(12345, description="seed of weights and of every draw")
    best: str | None = Field(None, description="measure whose best value is kept; -NAME where less is better")
    checkpoint_minutes: Annotated[float, Field(ge=0)] = Field(
        5.0, description="longest stretch of training that a kill may cost; 0 saves after every epoch"
    )
    trackers: tuple[Literal["tensorboard", "wandb"], ...] = Field((), description="services that show the numbers too")


class Task(Protocol):
    """What a recipe brings to the loop."""

    module: nn.Module  # everything that is trained and saved; `losses` calls it, perhaps through a wrapper

    def batches(self, epoch: int, start: int) -> Iterator[Any]:
        """Yield the batches of an epoch from iteration `start` on; the same ones whenever it is asked."""

    def losses(self, module: nn.Module, batch: Any) -> dict[str, Tensor]:
        """Return named losses of a batch, scalars; the one called "loss" is minimised."""

    def validate(self, module: nn.Module) -> dict[str, float]:
        """Return measures on data that are not trained on; called without gradients, in evaluation mode."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a training ended."""

    epoch: int  # epochs that are complete
    stopped: str = ""  # why it ended before its time


@dataclass
class Position:
    """Where a training stands, beside weights and optimiser."""

    epoch: int = 0
    iteration: int = 0  # steps of the epoch that are done
    skipped: int = 0  # steps without a finite loss or gradient, in all
    best: float | None = None
    seconds: float = 0.0  # of the epoch
    taken: int = 0  # steps of the epoch that were not skipped
    sums: dict[str, float] | None = None  # of their losses


class Loop:
    """One training of one task in one folder."""

    def __init__(
        self, task: Task, settings: LoopSettings, folder: Path, *, device: torch.device, ranks: Ranks | None = None
    ) -> None:
        self.task, self.settings, self.folder, self.device = task, settings, folder, device
        self.ranks = ranks or Ranks()
        task.module.to(device)
        self.optimiser = settings.optimiser.optimiser(p for p in task.module.parameters() if p.requires_grad)
        self.position = Position()
        self.average: Any = None
        if settings.ema:
            decay = get_ema_multi_avg_fn(settings.ema)  # type: ignore[no-untyped-call]
            self.average = AveragedModel(task.module, multi_avg_fn=decay, use_buffers=True)
        self._dtype = autocast_dtype(settings.precision, device)
        self._scaler = torch.GradScaler(device.type, enabled=self._dtype is torch.float16)
        self._saved_at = time.monotonic()
        self._in_a_row = 0

    @property
    def weights(self) -> nn.Module:
        """Return the module to evaluate and to ship: the averaged one where there is one."""
        return self.average.module if self.average is not None else self.task.module

    def run(self, progress: Progress, stopping: Stopping) -> Outcome:
        """Train from where the folder's newest whole checkpoint stands to the end, or until `stopping` says stop."""
        self._resume(progress)
        settings, place = self.settings, self.position
        if place.epoch >= settings.epochs:
            return Outcome(epoch=place.epoch)
        module: nn.Module = self.task.module
        if self.ranks.size > 1:
            ids = [self.device.index] if self.device.type == "cuda" else None
            module = DistributedDataParallel(module, device_ids=ids)
        left = settings.epochs - place.epoch - place.iteration / settings.iterations
        estimate = Estimate(progress, self.device, iterations=settings.iterations, epochs_left=left)
        total = settings.epochs * settings.iterations
        done = place.epoch * settings.iterations + place.iteration
        log = trackers.Trackers(self.folder, settings.trackers if self.ranks.first else (), epoch=place.epoch)
        with closing(log), progress.bar("train", total, completed=done) as advance:
            reason = ""
            while not reason and self.position.epoch < settings.epochs:
                reason = self._epoch(module, stopping, estimate, advance)
                if reason:
                    self._save()
                else:
                    self._end_epoch(log, advance)
        return Outcome(epoch=self.position.epoch, stopped=reason)

    def _epoch(self, module: nn.Module, stopping: Stopping, estimate: Estimate, advance: Any) -> str:
        """Train what is left of the epoch; return why it stopped, "" at its end."""
        place, settings = self.position, self.settings
        module.train()
        place.sums = place.sums or {}
        start = time.monotonic() - place.seconds
        batches = self.task.batches(place.epoch, place.iteration)
        while place.iteration < settings.iterations:
            reason = stopping.reason()
            if self.ranks.any(bool(reason), self.device):
                return reason or "another process was told to stop"
            found = self._step(module, batches)
            for name, value in found.items():
                place.sums[name] = place.sums.get(name, 0.0) + value
            place.taken += bool(found)
            place.iteration += 1
            place.seconds = time.monotonic() - start
            estimate.step()
            advance()
        return ""

    def _step(self, module: nn.Module, batches: Iterator[Any]) -> dict[str, float]:
        """Take one step; return its losses, or none where it was skipped."""
        place, settings = self.position, self.settings
        rate = settings.optimiser.rate(place.epoch + place.iteration / settings.iterations, settings.epochs)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        count = place.epoch * settings.iterations + place.iteration
        seed_everything(settings.seed + 1_000_003 * (count + 1) + self.ranks.rank)
        self.optimiser.zero_grad(set_to_none=True)
        try:
            batch = next(batches)
            with self._autocast():
                losses = self.task.losses(module, batch)
            found = {name: float(value.detach()) for name, value in losses.items()}
            if self.ranks.any(not math.isfinite(found[LOSS]), self.device):
                return self._skip()
            self._scaler.scale(losses[LOSS]).backward()  # type: ignore[no-untyped-call]
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise TrainingError(
                f"{self.device}: not enough memory for a step",
                hint="a smaller batch_size or patch_size; nothing is lost, run the same command again",
            ) from error
        self._scaler.unscale_(self.optimiser)
        norm = nn.utils.clip_grad_norm_(self.task.module.parameters(), settings.optimiser.clip or math.inf)
        if not self._scaler.is_enabled() and not math.isfinite(float(norm)):
            return self._skip()
        self._scaler.step(self.optimiser)
        self._scaler.update()
        if self.average is not None:
            self.average.update_parameters(self.task.module)
        self._in_a_row = 0
        return found

    def _skip(self) -> dict[str, float]:
        """Count a step that cannot be taken; a training that takes none any more has failed."""
        self.optimiser.zero_grad(set_to_none=True)
        self.position.skipped += 1
        self._in_a_row += 1
        if self._in_a_row >= TOO_MANY_SKIPPED:
            raise TrainingError(
                f"{self._in_a_row} steps in a row without a finite loss, in epoch {self.position.epoch + 1}",
                hint="mreg data verify looks for bad images; else a smaller learning rate may help",
            )
        return {}

    def _end_epoch(self, log: trackers.Trackers, advance: Any) -> None:
        """Validate, write the epoch's line, and save where that is due."""
        place, settings = self.position, self.settings
        means = {name: total / place.taken for name, total in (place.sums or {}).items()}
        line: dict[str, Any] = {"epoch": place.epoch, **self.ranks.mean(means, self.device)}
        self.weights.eval()
        with torch.no_grad(), self._autocast():
            measures = self.ranks.mean(self.task.validate(self.weights), self.device)
        line |= measures
        line |= {"learning_rate": self.optimiser.param_groups[0]["lr"]}
        line |= {"seconds": place.seconds, "skipped": place.skipped}
        better = self._is_best(measures)
        self.position = place = Position(epoch=place.epoch + 1, skipped=place.skipped, best=place.best)
        last = place.epoch == settings.epochs
        if self.ranks.first:
            log.log(line, last=last)
        if better:
            self._save(checkpoints.BEST)
        if last or time.monotonic() - self._saved_at >= 60 * settings.checkpoint_minutes:
            self._save()
        shown = " ".join(f"{k} {v:.3g}" for k, v in {LOSS: means.get(LOSS, math.nan), **measures}.items())
        advance(f"epoch {place.epoch}/{settings.epochs} {shown}", steps=0)

    def _is_best(self, measures: dict[str, float]) -> bool:
        """Whether the measure that counts was never better."""
        name = (self.settings.best or "").removeprefix("-")
        value = measures.get(name)
        if value is None or not math.isfinite(value):
            return False
        score = -value if self.settings.best != name else value
        if self.position.best is not None and score <= self.position.best:
            return False
        self.position.best = score
        return True

    def _autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, dtype=self._dtype) if self._dtype else nullcontext()

    def _save(self, name: str = checkpoints.LATEST) -> None:
        """Write everything that the next process needs to go on as if this one had."""
        self._saved_at = time.monotonic()
        if not self.ranks.first:
            return
        state = {
            "module": self.task.module.state_dict(),
            "average": self.average.state_dict() if self.average is not None else None,
            "optimiser": self.optimiser.state_dict(),
            "scaler": self._scaler.state_dict(),
            "position": dict(vars(self.position)),
            "settings": self.settings.model_dump(mode="json"),
        }
        checkpoints.save_state(self.folder / name, state)

    def _resume(self, progress: Progress) -> None:
        """Go to where the newest whole checkpoint stands."""
        path = checkpoints.newest(self.folder, progress)
        if path is None:
            trackers.keep_lines(self.folder, 0)
            return
        state = checkpoints.load_state(path, self.device)
        self.task.module.load_state_dict(state["module"])
        if self.average is not None and state["average"] is not None:
            self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        self._scaler.load_state_dict(state["scaler"])
        self.position = Position(**state["position"])
        if self.ranks.first:
            trackers.keep_lines(self.folder, self.position.epoch)
        if self.position.epoch < self.settings.epochs:
            where = f"epoch {self.position.epoch + 1} of {self.settings.epochs}, step {self.position.iteration + 1}"
            progress.say(f"continues at {where}")


def autocast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """Return what to autocast to, None for float32."""
    if precision == "auto":
        return torch.bfloat16 if bf16_here(device) else None
    return {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": None}[precision]
