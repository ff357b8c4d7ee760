"""Does each method of pre-training learn? 300 steps of a small net on a CPU, for each method and encoder.

    python benchmarks/pretraining.py FOLDER_OF_A_COLLECTION [--steps 300] [--only mae-primus ...] [--out table.json]

Prints a table: losses of the first and of the last tenth, on training and on validation subjects; where the task has a
chance level, the share of right answers and what guessing gives; seconds of processor time a step.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch

from trainers.core.distributed import Ranks
from trainers.core.progress import Progress
from trainers.core.stopping import Stopping
from trainers.pretraining import train
from trainers.pretraining.checkpoint import adaptation_plan
from trainers.pretraining.config import PAIRS, PretrainingSettings
from trainers.pretraining.prepare import Preparation, Prepared, prepare

TENTHS = 10
CHANCE = {"voco": "1/16", "simclr": "1/15", "swin_unetr": "1/4", "volume_fusion": "largest class"}
LEARNING = {"resenc": {"lr": 1e-2}, "primus": {"lr": 1e-3}}


def measure(method: str, encoder: str, prepared: Prepared, steps: int) -> dict[str, object]:
    """Train a pair and return its row."""
    settings = PretrainingSettings.model_validate({
        "method": method, "encoder": encoder, "profile": "tiny", "device": "cpu", "batch_size": 4, "epochs": TENTHS,
        "iterations": steps // TENTHS, "val_iterations": 8, **LEARNING[encoder],
    })  # fmt: skip
    pair = train.build(settings)
    start = time.process_time()
    with tempfile.TemporaryDirectory() as folder, Stopping() as stopping:
        plan = adaptation_plan(*pair, prepared.plans, tiny=True)
        run = Path(folder)
        train.train(settings, pair, prepared, plan, run, torch.device("cpu"), Progress(), stopping, Ranks())
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    row = {"method": method, "encoder": encoder, "seconds": (time.process_time() - start) / steps}
    for name in ("loss", "accuracy", "chance"):
        for key in (name, f"val_{name}"):
            if key in lines[0]:
                row[key] = [lines[0][key], lines[-1][key]]
    return row


def table(rows: list[dict]) -> str:
    """Return the rows as Markdown."""

    def pair(row: dict, key: str) -> str:
        return " → ".join(f"{value:.3g}" for value in row[key]) if key in row else "-"

    lines = [
        "| method | encoder | loss | validation loss | right answers | by chance | s/step |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        chance = f"{row['val_chance'][-1]:.2f}" if "val_chance" in row else CHANCE.get(row["method"], "-")
        cells = (pair(row, "loss"), pair(row, "val_loss"), pair(row, "val_accuracy"), chance, f"{row['seconds']:.2f}")
        lines.append(f"| {row['method']} | {row['encoder']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("collection", type=Path)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--only", nargs="*", default=[f"{m}-{e}" for m, e in PAIRS])
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory() as cache:
        prepared = prepare(chosen.collection.resolve(), Path(cache), Preparation(), Progress())
        for method, encoder in PAIRS:
            if f"{method}-{encoder}" in chosen.only:
                rows.append(measure(method, encoder, prepared, chosen.steps))
                print(table(rows[-1:]).splitlines()[-1], flush=True)
                if chosen.out:
                    chosen.out.write_text(json.dumps(rows, indent=1))
    print(table(rows))


if __name__ == "__main__":
    main()
