"""A small task for the loop: restore blurred patches of the MNI152 template.

`python tests/loop_task.py FOLDER PAUSE` trains it and prints the outcome as JSON. Under torchrun each process takes its
share of every batch.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from nilearn.datasets import load_mni152_template
from torch import nn
from torch.nn import functional

from trainers.core.distributed import Ranks, join
from trainers.core.loop import Loop, LoopSettings
from trainers.core.progress import Progress
from trainers.core.stopping import Stopping

if TYPE_CHECKING:
    from collections.abc import Iterator

BATCH, EDGE = 4, 12
ALONE = Ranks()
LENGTH = {"epochs": 4, "iterations": 5, "checkpoint_minutes": 0, "optimiser": {"lr": 0.01, "warmup": 1}}


class Restoration:
    """Two convolutions with dropout that undo a blur."""

    def __init__(self, ranks: Ranks = ALONE, *, bad: tuple[tuple[int, int], ...] = (), pause: float = 0) -> None:
        torch.manual_seed(1)
        self.module = nn.Sequential(
            nn.Conv3d(1, 4, 3, padding=1), nn.ReLU(), nn.Dropout3d(0.0 if ranks.size > 1 else 0.2), nn.Conv3d(4, 1, 1)
        )
        self.volume = torch.from_numpy(load_mni152_template(resolution=2).get_fdata().astype(np.float32))
        self.ranks, self.bad, self.pause = ranks, bad, pause

    def batches(self, epoch: int, start: int) -> Iterator[torch.Tensor]:
        """Yield sharp patches (B, 1, Z, Y, X)."""
        for iteration in range(start, sys.maxsize):
            rng = np.random.default_rng((epoch, iteration))
            corners = rng.integers(20, 60, (BATCH, 3))
            patches = [self.volume[tuple(slice(c, c + EDGE) for c in corner)] for corner in corners]
            share = torch.stack(patches)[:, None][self.ranks.rank :: self.ranks.size]
            time.sleep(self.pause)
            yield share * float("nan") if (epoch, iteration) in self.bad else share

    def losses(self, module: nn.Module, batch: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the squared error of the restored patches."""
        error = functional.mse_loss(module(functional.avg_pool3d(batch, 3, 1, 1)), batch)
        return {"loss": error, "double": 2 * error.detach()}

    def validate(self, module: nn.Module) -> dict[str, float]:
        """Return the error on patches of an epoch that is never trained."""
        batch = next(self.batches(10**6, 0))
        return {"error": float(self.losses(module, batch)["loss"])}


def train(folder: Path, settings: dict[str, Any], task: Restoration, ranks: Ranks = ALONE, **stop: Any) -> dict:
    """Train in a folder; return the outcome."""
    folder.mkdir(parents=True, exist_ok=True)
    loop = Loop(task, LoopSettings(**settings), folder, device=torch.device("cpu"), ranks=ranks)
    with Stopping(**stop) as stopping:
        outcome = loop.run(Progress(), stopping)
    weights = sum(float(p.detach().double().abs().sum()) for p in loop.weights.parameters())
    return {"epoch": outcome.epoch, "stopped": outcome.stopped, "weights": weights, "skipped": loop.position.skipped}


if __name__ == "__main__":
    torch.set_num_threads(1)
    with join(torch.device("cpu")) as (ranks, _):
        result = train(Path(sys.argv[1]), LENGTH, Restoration(ranks, pause=float(sys.argv[2])), ranks)
    if ranks.first:
        print(json.dumps(result))
