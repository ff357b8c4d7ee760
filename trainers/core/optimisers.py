"""Optimisers and learning-rate schedules of the recipes, by name."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from collections.abc import Iterable

POLY_POWER = 0.9  # nnU-Net's exponent
Rate = Annotated[float, Field(gt=0)]


class OptimiserSettings(BaseModel):
    """How weights move. The defaults are nnU-Net's: SGD, Nesterov momentum 0.99, polynomial decay to 0."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Literal["sgd", "adamw"] = Field("sgd", description="optimiser")
    lr: Rate = Field(1e-2, description="learning rate after the warm-up")
    weight_decay: Annotated[float, Field(ge=0)] = Field(3e-5, description="weight decay (decoupled with adamw)")
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(0.99, description="momentum of sgd")
    betas: tuple[float, float] = Field((0.9, 0.999), description="moments of adamw")
    clip: Rate | None = Field(12.0, description="largest norm of the gradient")
    schedule: Literal["poly", "cosine", "constant"] = Field("poly", description="decay after the warm-up")
    warmup: Annotated[float, Field(ge=0)] = Field(0, description="epochs of linear rise from 0")
    by_epoch: bool = Field(False, description="change the rate once an epoch, not with each step")
    final_share: Annotated[float, Field(ge=0, le=1)] = Field(0, description="share of lr at the end of cosine")

    def optimiser(self, parameters: Iterable[torch.nn.Parameter]) -> torch.optim.Optimizer:
        """Return the optimiser of these parameters."""
        if self.name == "adamw":
            return torch.optim.AdamW(parameters, lr=self.lr, betas=self.betas, weight_decay=self.weight_decay)
        return torch.optim.SGD(
            parameters, lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay, nesterov=self.momentum > 0
        )

    def rate(self, epoch: float, epochs: int) -> float:
        """Return the learning rate at a moment of the training, in epochs from its start."""
        if self.by_epoch:
            epoch = math.floor(epoch)
            if epoch < self.warmup:
                return self.lr * (epoch + 1) / self.warmup
        if epoch < self.warmup:
            return self.lr * (epoch + 1e-3) / (self.warmup + 1e-3)
        done = min(1.0, (epoch - self.warmup) / max(1e-9, epochs - self.warmup))
        if self.schedule == "poly":
            return float(self.lr * (1 - done) ** POLY_POWER)
        if self.schedule == "cosine":
            share = self.final_share + (1 - self.final_share) * (1 + math.cos(math.pi * done)) / 2
            return self.lr * share
        return self.lr
