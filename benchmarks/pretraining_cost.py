"""What a step of each method costs at the papers' sizes: operations and memory, counted without computing anything.

    python benchmarks/pretraining_cost.py

Counts multiplications and additions of forward and backward pass for one image, and the bytes that the forward pass
keeps for the backward pass, in float32; with bfloat16 about half. Weights, gradients and optimiser come on top.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from trainers.pretraining import train
from trainers.pretraining.config import PAIRS, PretrainingSettings
from trainers.pretraining.methods import mae

GIB = 1 << 30
MOST_VOXELS = 256  # along an axis of a patch


def shapes(name: str, method: object) -> list[tuple[int, ...]]:
    """Return the shapes of what the module of a method is given for one image."""
    image = (1, 1, *method.seen)
    if name in {"mae", "s3d", "simmim"}:
        return [image, (1, 1, *(size // method.block for size in method.seen))]
    copies = {"voco": 20, "simclr": 4, "swin_unetr": 2}.get(name, 1)
    return [(copies, 1, *method.seen)]


def cost(name: str, encoder: str) -> tuple[int, float, float]:
    """Return parameters, operations of a step and GiB kept for the backward pass."""
    method, net = train.build(PretrainingSettings.model_validate({"method": name, "encoder": encoder}))
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        scores = tensor.ndim > 2 and tensor.shape[-1] == tensor.shape[-2] > MOST_VOXELS  # real attention keeps none
        if not isinstance(tensor, nn.Parameter) and not scores:
            kept[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()  # noqa: SLF001 - no public name
        return tensor

    alive = []  # a storage that is freed could lend its address to another
    with torch.device("meta"):
        module = method.module(net)
        inputs = [torch.empty(shape) for shape in shapes(name, method)]
        counter = FlopCounterMode(display=False)
        with counter, torch.autograd.graph.saved_tensors_hooks(lambda t: (alive.append(t), keep(t))[1], lambda t: t):
            found = module(*inputs)
            total = sum(part.sum() for part in found) if isinstance(found, tuple) else found.sum()
            total.backward()
    return sum(p.numel() for p in module.parameters()), counter.get_total_flops(), sum(kept.values()) / GIB


def main() -> None:
    mae.kept = lambda row: torch.empty((1, row.shape[1] // 4), dtype=torch.int64, device="meta")  # data has no say here
    print("| method | encoder | patch | parameters | 10¹² operations an image | GiB kept an image |")
    print("|---|---|---|---|---|---|")
    for name, encoder in PAIRS:
        parameters, operations, memory = cost(name, encoder)
        method, _ = train.build(PretrainingSettings.model_validate({"method": name, "encoder": encoder}))
        patch = " x ".join(map(str, method.reading().patch))
        cells = (f"{parameters / 1e6:.1f} M", f"{operations / 1e12:.1f}", f"{memory:.1f}")
        print(f"| {name} | {encoder} | {patch} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
