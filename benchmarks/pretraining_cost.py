"""What a step of each method costs at the papers' sizes: operations and memory, counted on empty images.

    python benchmarks/pretraining_cost.py

Counts multiplications and additions of forward and backward pass for one image, and the bytes that the forward pass
keeps for the backward pass, in float32; with bfloat16 about half. Weights, gradients and optimiser come on top.
"""

from __future__ import annotations

from trainers.core.estimate import GIB
from trainers.pretraining.config import PAIRS, PretrainingSettings
from trainers.pretraining.cost import count
from trainers.pretraining.train import build


def main() -> None:
    print("| method | encoder | patch | parameters | 10¹² operations an image | GiB kept an image |")
    print("|---|---|---|---|---|---|")
    for name, encoder in PAIRS:
        method, net = build(PretrainingSettings.model_validate({"method": name, "encoder": encoder}))
        cost = count(method, net)
        patch = " x ".join(map(str, method.reading().patch))
        cells = (f"{cost.parameters / 1e6:.1f} M", f"{cost.operations / 1e12:.1f}", f"{cost.kept / GIB:.1f}")
        print(f"| {name} | {encoder} | {patch} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
