"""Batch normalisation whose batch is that of all processes, on any device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed, nn

SPACE = (0, 2, 3, 4)  # the axes of (B, C, Z, Y, X) that are averaged over


class BatchNorm(nn.BatchNorm3d):
    """`torch.nn.BatchNorm3d`; in training with several processes mean and variance are those of their images together.

    `torch.nn.SyncBatchNorm` does the same on GPUs alone.
    """

    def forward(self, volume: Tensor) -> Tensor:
        """Return (B, C, Z, Y, X)."""
        alone = not (distributed.is_available() and distributed.is_initialized()) or distributed.get_world_size() == 1
        if not self.training or alone:
            return super().forward(volume)
        count = _sum_over_processes(volume.new_tensor([volume.numel() / volume.shape[1]], dtype=torch.float32))
        values = volume.float()
        mean = _sum_over_processes(values.sum(SPACE)) / count
        centred = values - mean.view(1, -1, 1, 1, 1)
        variance = _sum_over_processes(centred.square().sum(SPACE)) / count
        self._remember(mean.detach(), (variance * count / (count - 1)).detach())
        shape = (1, -1, 1, 1, 1)
        found = centred * torch.rsqrt(variance + self.eps).view(shape)
        return (found * self.weight.view(shape) + self.bias.view(shape)).to(volume.dtype)

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        """Move the running statistics, which evaluation takes."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked += 1
        share = 0.1 if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance, share)


def _sum_over_processes(values: Tensor) -> Tensor:
    """Return the sum, through which gradients flow back to every process."""
    found: Tensor = _Sum.apply(values)  # type: ignore[no-untyped-call]
    return found


class _Sum(torch.autograd.Function):
    """Sum over processes; the gradient of a process's share is the sum of what they all ask of the sum."""

    @staticmethod
    def forward(_: Any, values: Tensor) -> Tensor:
        return _summed(values)

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        return _summed(gradient)


def _summed(values: Tensor) -> Tensor:
    found = values.clone(memory_format=torch.contiguous_format)
    distributed.all_reduce(found)
    return found
