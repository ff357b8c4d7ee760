"""Does each method of pre-training learn? 300 steps of a small net on a CPU, for each method and encoder.

    python benchmarks/pretraining.py FOLDER_OF_A_COLLECTION [WORK] [--only mae-primus ...] [--settings JSON]

Prints a table: losses of the first and of the last tenth of the training; on validation subjects those of the untrained
and of the trained net and, where the task has a chance level, their shares of right answers. Rows are kept in WORK, and
those that are there are not measured again. --settings changes settings of the recipe, in rows of their own.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from trainers.core.distributed import Ranks
from trainers.core.environment import seed_everything
from trainers.core.progress import Progress
from trainers.core.stopping import Stopping
from trainers.pretraining import train
from trainers.pretraining.checkpoint import adaptation_plan
from trainers.pretraining.config import PAIRS, PretrainingSettings
from trainers.pretraining.images import ImageStore
from trainers.pretraining.prepare import Preparation, Prepared, prepare
from trainers.pretraining.task import PretrainingTask

TENTHS, BATCH = 10, 4
CPU = torch.device("cpu")
CHANCE = {"voco": 1 / 16, "simclr": 1 / (4 * BATCH - 1), "swin_unetr": 1 / 4, "volume_fusion": 1 / 5}
LEARNING: dict[str, dict[str, Any]] = {"resenc": {"lr": 1e-2}, "primus": {"lr": 1e-3}}
GENTLE: dict[tuple[str, str], dict[str, Any]] = {("voco", "resenc"): {"lr": 1e-3}}  # gradients have no limit there


def measure(method: str, encoder: str, prepared: Prepared, steps: int, more: dict[str, Any]) -> dict[str, Any]:
    """Train a pair and return its row."""
    settings = PretrainingSettings.model_validate({
        "method": method, "encoder": encoder, "profile": "tiny", "device": "cpu", "batch_size": BATCH, "epochs": TENTHS,
        "iterations": steps // TENTHS, "val_iterations": 8, **LEARNING[encoder],
        **GENTLE.get((method, encoder), {}), **more,
    })  # fmt: skip
    pair = train.build(settings)
    row: dict[str, Any] = {"method": method, "encoder": encoder, "untrained": untrained(settings, pair, prepared)}
    start = time.process_time()
    with tempfile.TemporaryDirectory() as folder, Stopping() as stopping:
        plan = adaptation_plan(*pair, prepared.plans, tiny=True)
        run = Path(folder)
        train.train(settings, pair, prepared, plan, run, CPU, Progress(), stopping, Ranks())
        row["tenths"] = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return row | {"seconds": (time.process_time() - start) / steps}


def untrained(settings: PretrainingSettings, pair: tuple[Any, Any], prepared: Prepared) -> dict[str, float]:
    """Return the measures of the net that the training begins with."""
    seed_everything(settings.seed)
    stores = tuple(ImageStore(prepared.folder, cases) for cases in (prepared.training, prepared.validation))
    task = PretrainingTask(
        *pair, (stores[0], stores[1]), batch=settings.batch_size or BATCH, val_iterations=settings.val_iterations or 1,
        seed=settings.seed, device=CPU,
    )  # fmt: skip
    with torch.no_grad():
        found = task.validate(task.module.eval())
    task.close()
    return found


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as Markdown."""
    lines = [
        "| method | encoder | loss | validation loss | right on validation | by chance | s/step |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        first, last, before = row["tenths"][0], row["tenths"][-1], row["untrained"]
        losses = f"{first['loss']:.3g} → {last['loss']:.3g} | {before['val_loss']:.3g} → {last['val_loss']:.3g}"
        right = chance = ""
        if "val_accuracy" in last:
            right = f"{before['val_accuracy']:.2f} → {last['val_accuracy']:.2f}"
            chance = f"{CHANCE[row['method']]:.2f}"
        lines.append(f"| {row['method']} | {row['encoder']} | {losses} | {right} | {chance} | {row['seconds']:.2f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("collection", type=Path)
    parser.add_argument("work", type=Path, nargs="?", default=Path("pretraining"))
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--only", nargs="*", default=[f"{m}-{e}" for m, e in PAIRS])
    parser.add_argument("--settings", type=json.loads, default={})
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    chosen.work.mkdir(parents=True, exist_ok=True)
    prepared = prepare(chosen.collection.resolve(), chosen.work / "cache", Preparation(), Progress())
    changes = "".join(letter for letter in json.dumps(chosen.settings) if letter.isalnum() or letter in "._")
    rows = []
    for method, encoder in PAIRS:
        if f"{method}-{encoder}" in chosen.only:
            file = chosen.work / f"{method}-{encoder}-{chosen.steps}-{changes}.json"
            if not file.is_file():
                file.write_text(json.dumps(measure(method, encoder, prepared, chosen.steps, chosen.settings)))
            rows.append(json.loads(file.read_text()))
            print(table(rows[-1:]).splitlines()[-1], flush=True)
    print(table(rows))


if __name__ == "__main__":
    main()
