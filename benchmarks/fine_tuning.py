"""Does pre-training help? Fine-tuned against from scratch with the same budget, three seeds, held-out subjects.

    python benchmarks/fine_tuning.py [WORK] [--data SHARED_DATA] [--seeds N] [--steps N ...] [--pretraining-steps N]

A small ResEnc is pre-trained once with a masked autoencoder on the images of Dataset530; recipe `nnunet` then trains
its network on the spinal cord of Dataset501, with each seed another subject held out: from scratch, with the encoder's
weights at the rate of the recipe, and with them at the rate of the training from scratch. With a seed all three begin
with the same decoder and draw the same patches; nobody whose images pre-train is trained or tested on in Dataset501.
Everything goes through `mreg train`, on one processor; what is done stays in WORK, so the script can be
killed and started again. Prints a table: Dice of the held-out cases, mean and standard deviation over the seeds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
IMAGES, CASES = "Dataset530_SpineSSL", "Dataset501_SpinalCordT2w"
EPOCHS = 10  # the schedules move with each
FOLDS = 3
SCRATCH = "from scratch, 0.01"
ARMS: dict[str, tuple[str, ...]] = {
    SCRATCH: ("--from-scratch",),
    "fine-tuned, warm-up to 0.001": (),
    "fine-tuned, warm-up to 0.01": ("--set", "initial_lr=0.01"),
}
ENCODER = f"""\
[model]
name = "model_pretrain_spine"

[data]
dataset = "data/raw/{IMAGES}"

[train]
recipe = "pretrain"
method = "mae"
encoder = "resenc"
profile = "tiny"
encoder_options = {{features = [8, 16, 32, 64], blocks = [1, 1, 1, 1]}}
epochs = 20
batch_size = 4
device = "cpu"
"""
MODEL = f"""\
[model]
name = "model_seg_sc_t2"

[data]
dataset = "data/raw/{CASES}"

[train]
recipe = "nnunet"
configuration = "3d_fullres"
patch_size = [32, 32, 32]
batch_size = 2
epochs = {EPOCHS}
val_iterations = 1
precision = "native"
device = "cpu"
"""


def repo(folder: Path, text: str, dataset: Path) -> Path:
    """Return a model's folder with that model.toml and a link to its data."""
    link = folder / "data" / "raw" / dataset.name
    link.parent.mkdir(parents=True, exist_ok=True)
    if not link.is_symlink():
        link.symlink_to(dataset.resolve(), target_is_directory=True)
    (folder / "model.toml").write_text(text)
    return folder


def train(folder: Path, *flags: str) -> Path:
    """Run `mreg train` in a folder, which goes on where it stopped; return the run."""
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-P", "-m", "registry", "train", "--json", *flags], cwd=folder, text=True, check=False,
        stdin=subprocess.DEVNULL, capture_output=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"mreg train {' '.join(flags)}:\n{done.stderr[-3000:]}")
    answer = json.loads(done.stdout)
    if answer["trained"]:
        print(f"{folder.name} {' '.join(flags)}: {time.monotonic() - start:.0f} s", flush=True)
    return folder / answer["run"]


def dice(run: Path) -> float:
    """Return the mean Dice of a run's held-out cases."""
    (summary,) = (json.loads(path.read_text()) for path in run.glob("fold_*/validation/summary.json"))
    return statistics.mean(case["metrics"]["1"]["Dice"] for case in summary["metric_per_case"])


def table(found: dict[tuple[int, str], list[float]]) -> str:
    """Return the measured Dice as Markdown."""
    lines = ["| steps | start and rate | Dice | of each seed | gained with each seed |", "|---|---|---|---|---|"]
    for (steps, arm), values in found.items():
        gains = [value - alone for value, alone in zip(values, found[steps, SCRATCH], strict=False)]
        cells = [spread(values), " ".join(f"{value:.3f}" for value in values)]
        cells += [f"{spread(gains)}: {' '.join(f'{gain:+.3f}' for gain in gains)}" if arm != SCRATCH else ""]
        lines.append(f"| {steps} | {arm} | {' | '.join(cells)} |")
    return "\n".join(lines)


def spread(values: list[float]) -> str:
    """Return mean and standard deviation."""
    return f"{statistics.mean(values):.3f} ± {statistics.stdev(values) if len(values) > 1 else 0.0:.3f}"


def main() -> None:
    """Train what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path, nargs="?", default=Path("fine_tuning"))
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared/data")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, nargs="+", default=[60])
    parser.add_argument("--pretraining-steps", type=int, default=300)
    chosen = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, [max(os.sched_getaffinity(0))])  # a training takes every processor that it may use
    work: Path = chosen.work.resolve()
    encoder = repo(work / "encoder", ENCODER, chosen.data / "nnssl_raw" / IMAGES)
    pretrained = train(encoder, "--set", f"iterations={chosen.pretraining_steps // 20}")
    lines = [json.loads(line) for line in (pretrained / "fold_all" / "metrics.jsonl").read_text().splitlines()]
    print(f"pre-training: loss on held-out subjects {lines[0]['val_loss']:.3f} to {lines[-1]['val_loss']:.3f}")
    model = repo(work / "model", MODEL, chosen.data / "nnUNet_raw" / CASES)
    found: dict[tuple[int, str], list[float]] = {}
    for steps in chosen.steps:
        for arm, flags in ARMS.items():
            for seed in range(chosen.seeds):
                which = ("--fold", str(seed % FOLDS), "--set", f"seed={seed + 1}")
                length = ("--set", f"iterations={steps // EPOCHS}")
                run = train(model, "--from", str(pretrained), *which, *length, *flags)
                found.setdefault((steps, arm), []).append(dice(run))
            print(table(found), flush=True)


if __name__ == "__main__":
    main()
