"""What a step of pre-training takes, counted before the first one: operations, memory, and about how long."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from trainers.core.environment import free_memory
from trainers.core.estimate import GIB, duration
from trainers.pretraining.method import Draws

if TYPE_CHECKING:
    from trainers.pretraining.method import Method, Net

CPU = torch.device("cpu")
BYTES = 4  # of a number
WAITED_FOR = ("cuda", "mps")  # devices that go on computing after a call has come back
STATES = {"sgd": 1, "adamw": 2}  # numbers that an optimiser keeps for each weight
MOST_KEPT = 256  # rows of a square matrix; larger ones are likenesses of tokens, which real attention does not keep


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What forward and backward pass of one image take."""

    parameters: int
    operations: int  # multiplications and additions
    kept: int  # bytes that the forward pass keeps for the backward pass, in float32

    def memory(self, images: int, optimiser: str, *, half: bool) -> float:
        """Return the bytes of a step: weights, gradients, the optimiser's state, and what is kept for the images."""
        return self.parameters * BYTES * (2 + STATES[optimiser]) + images * self.kept / (2 if half else 1)


def count(method: Method, net: Net) -> Cost:
    """Return the cost of a pair; nothing is computed but the views of one empty image."""
    kept: dict[int, int] = {}
    alive = []  # a storage that is freed could lend its address to another one

    def keep(tensor: Tensor) -> Tensor:
        alive.append(tensor)
        likenesses = tensor.ndim > 2 and tensor.shape[-1] == tensor.shape[-2] > MOST_KEPT  # noqa: PLR2004
        if not isinstance(tensor, nn.Parameter) and not likenesses:
            kept[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()  # noqa: SLF001 - no public name
        return tensor

    inputs = [tensor.to("meta") for tensor in shown(method)]
    with torch.device("meta"):
        module = method.module(net)
        counter = FlopCounterMode(display=False)
        with counter, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            found = module(*inputs)
            torch.stack([part.sum() for part in (found if isinstance(found, tuple) else (found,))]).sum().backward()  # type: ignore[no-untyped-call]
    parameters = sum(parameter.numel() for parameter in module.parameters())
    return Cost(parameters=parameters, operations=counter.get_total_flops(), kept=sum(kept.values()))


def shown(method: Method) -> tuple[Tensor, ...]:
    """Return what a method shows its module of one empty image."""

    def module(*inputs: Tensor) -> None:
        raise _ShownError(*inputs)

    reading = method.reading()
    images = torch.zeros((reading.each, 1, *reading.patch))
    views = method.views(images, torch.ones_like(images), Draws.of((0,), CPU, train=False))
    stand_in: Any = module
    try:
        method.losses(stand_in, views)
    except _ShownError as found:
        return found.args
    raise TypeError(f"{method.name} shows its module nothing")


class _ShownError(Exception):
    """Carries what a module was called with."""


def speed(device: torch.device, dtype: torch.dtype | None) -> float:
    """Return how many operations a second a convolution does on a device, measured in a moment."""
    edge = 96 if device.type == "cuda" else 32
    volume = torch.zeros((1, 32, edge, edge, edge), device=device, dtype=dtype)
    kernel = torch.zeros((32, 32, 3, 3, 3), device=device, dtype=dtype)
    seconds = []
    with torch.no_grad():
        for _ in range(3):
            start = time.perf_counter()
            functional.conv3d(volume, kernel, padding=1)
            if device.type in WAITED_FOR:
                getattr(torch, device.type).synchronize()
            seconds.append(time.perf_counter() - start)
    return 2.0 * 32 * 32 * 27 * edge**3 / min(seconds)


def forecast(cost: Cost, device: torch.device, dtype: torch.dtype | None, plan: dict[str, Any]) -> str:
    """Return a line for people; `plan` has steps, images (a step, of this process), optimiser."""
    images, operations = plan["images"], plan["images"] * cost.operations
    needed = cost.memory(images, plan["optimiser"], half=dtype is not None)
    seconds = operations / speed(device, dtype)
    line = (
        f"to come: {plan['steps']} steps of {images} images and {operations / 1e12:.3g} x 10^12 operations, "
        f"{duration(seconds)} each and {duration(seconds * plan['steps'])} in all at the speed of a convolution here; "
        f"about {needed / GIB:.1f} GiB of memory"
    )
    there = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else free_memory()
    if there is None:
        return line
    return f"{line}, {there / GIB:.1f} free" + (": a smaller batch_size takes less" if needed > there else "")
