"""Several processes, one training: started by torchrun (or Slurm), joined by NCCL on GPUs and gloo on CPUs."""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import torch
from torch import distributed

if TYPE_CHECKING:
    from collections.abc import Iterator

# Validation of a large set leaves ranks waiting for one another far longer than the default ten minutes.
PATIENCE = timedelta(hours=24)


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """Place of this process among those that train together."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes files and talks."""
        return self.rank == 0

    def mean(self, values: dict[str, float], device: torch.device) -> dict[str, float]:
        """Return the mean of each value over the processes; all must call it with the same keys."""
        if self.size == 1 or not values:
            return values
        keys = sorted(values)
        kind = torch.float32 if device.type == "mps" else torch.float64
        tensor = torch.tensor([values[key] for key in keys], dtype=kind, device=device)
        distributed.all_reduce(tensor)
        return {key: float(total) / self.size for key, total in zip(keys, tensor.tolist(), strict=True)}

    def any(self, here: bool, device: torch.device) -> bool:
        """Whether something is so in any of the processes; all must ask."""
        if self.size == 1:
            return here
        flag = torch.tensor(float(here), device=device)
        distributed.all_reduce(flag, op=distributed.ReduceOp.MAX)
        return bool(flag.item())


@contextmanager
def join(device: torch.device) -> Iterator[tuple[Ranks, torch.device]]:
    """Join the processes that torchrun started; give this one's place and its own device."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield Ranks(), device
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    try:
        yield Ranks(rank=distributed.get_rank(), size=size), device
        distributed.barrier()  # a process that leaves early takes the others' connections with it
    finally:
        distributed.destroy_process_group()
