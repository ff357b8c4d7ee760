"""Does the window win? The same net with and without it, ten minutes of processor time each, on a person held out.

    python benchmarks/lesion_window.py OUT [--data ../shared/data] [--seeds 3] [--minutes 10] [--fold 0] [--figure FILE]

Both nets have the recipe's default settings and differ in `crop` alone: a window that follows the cord, or the whole
image. The budget is processor time of the training's steps, on one thread; the two of a seed take turns of one minute,
so that the load of a shared machine meets both alike. Cutting out and measuring are not counted. The rate of learning
falls with the share of the budget that is used. A run that was stopped goes on with its last whole minute.

The slabs of the person held out are one scan, so their voxels and lesions are counted together: at a threshold of 0.5,
and at the threshold that is best for each net on these very slabs. Fails where the window does not win for each seed.
With --figure, what the first seed's net with the window finds at its best threshold is drawn.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from trainers.core import checkpoints
from trainers.core.environment import seed_everything
from trainers.core.files import write_json
from trainers.core.optimisers import OptimiserSettings
from trainers.core.progress import Progress
from trainers.lesion.chain import read_lesions
from trainers.lesion.config import LesionSettings
from trainers.lesion.evaluate import DEFAULT, THRESHOLDS, heading, lesion_scores
from trainers.lesion.index import from_nnunet
from trainers.lesion.network import build
from trainers.lesion.pictures import Shown, draw_predictions
from trainers.lesion.prepare import CutCases, fill_store, fit
from trainers.lesion.sliding import predict_volume
from trainers.lesion.task import LesionTask

if TYPE_CHECKING:
    from numpy.typing import NDArray

DATASET = Path("nnUNet_raw", "Dataset510_LesionSCT2w")
ARMS = {"window": "window", "whole image": "none"}
TURN = 60.0  # seconds of processor time
WARM_UP = 20  # one part in so many of the budget
CPU = torch.device("cpu")
MEASURES = ("dice", "sensitivity", "precision", "false_positive_ml")


class Arm:
    """One training, and how much of its budget it has used."""

    def __init__(self, crop: str, seed: int, dataset: Path, split: dict[str, list[str]], out: Path) -> None:
        self.settings = LesionSettings.model_validate({"crop": crop, "seed": seed, "device": "cpu"})
        self.split, self.state = split, out / f"{crop}-{seed}.pth"
        progress = Progress()
        self.cut = CutCases(out / "cache", from_nnunet(dataset), self.settings)
        self.cut.prepare(1, progress)
        self.standard = fit(self.cut, split["train"], self.settings)
        store = fill_store(self.cut, split["train"], self.standard, self.settings, 1, progress)
        seed_everything(seed)
        self.module = build(self.settings)
        self.task = LesionTask(self.module, self.settings, store, split["train"], [], device=CPU)
        self.rule = OptimiserSettings.model_validate({
            "name": self.settings.optimiser, "lr": self.settings.lr, "schedule": self.settings.schedule, "warmup": 1,
        })  # fmt: skip
        self.optimiser = self.rule.optimiser(self.module.parameters())
        self.steps, self.used = 0, 0.0
        if self.state.is_file():
            found = checkpoints.load_state(self.state, CPU)
            self.module.load_state_dict(found["module"])
            self.optimiser.load_state_dict(found["optimiser"])
            self.steps, self.used = found["steps"], found["used"]

    def train(self, until: float, budget: float) -> None:
        """Take steps until so many seconds of the budget are used, and save."""
        self.module.train()
        batches = self.task.batches(0, self.steps)
        while self.used < until:
            start = time.process_time()
            rate = self.rule.rate(WARM_UP * self.used / budget, WARM_UP)
            for group in self.optimiser.param_groups:
                group["lr"] = rate
            seed_everything(self.settings.seed + 1_000_003 * (self.steps + 1))
            self.optimiser.zero_grad(set_to_none=True)
            self.task.losses(self.module, next(batches))["loss"].backward()
            torch.nn.utils.clip_grad_norm_(self.module.parameters(), self.rule.clip or 1e9)
            self.optimiser.step()
            self.steps += 1
            self.used += time.process_time() - start
        state = {"module": self.module.state_dict(), "optimiser": self.optimiser.state_dict()}
        checkpoints.save_state(self.state, {**state, "steps": self.steps, "used": self.used})

    def found(self, name: str) -> NDArray[np.float32]:
        """Return the probability (x, y, z) of a lesion in a slab, on the net's grid."""
        case = self.cut.read(name)
        image = self.standard.apply(case.image, case.tissue, self.cut.cases[name].contrast)
        return predict_volume(self.module.eval(), image, self.settings, CPU)

    def measure(self) -> dict[str, Any]:
        """Return what the net finds in the person held out, on the images' own grids."""
        cases = []
        for name in self.split["val"]:
            place = self.cut.place(name)
            probability = place.paste(self.found(name))
            cases.append((probability, read_lesions(self.cut.cases[name], place.native), place.spacing))
        best = max(THRESHOLDS, key=lambda t: (pooled_dice(cases, t), -abs(t - DEFAULT)))
        return {
            "steps": self.steps, "seconds": self.used, "best_threshold": best,
            "half": together(cases, DEFAULT), "best": together(cases, best),
        }  # fmt: skip

    def draw(self, path: Path, threshold: float) -> None:
        """Draw what the net finds in the person held out."""
        rows = []
        for name in self.split["val"]:
            case, probability = self.cut.read(name), self.found(name)
            truth = read_lesions(self.cut.cases[name], case.place.native)
            scores = lesion_scores(case.place.paste(probability) >= threshold, truth, case.place.spacing)
            rows.append(Shown(heading(scores), case.image, case.lesion, probability >= threshold))
        draw_predictions(path, rows, self.settings.window, self.settings.geometry.spacing)


Cases = list[tuple[Any, Any, tuple[float, float, float]]]


def pooled_dice(cases: Cases, threshold: float) -> float:
    """Return Dice over the voxels of all slabs."""
    both = sum(int((truth & (probability >= threshold)).sum()) for probability, truth, _ in cases)
    return 2 * both / sum(int(truth.sum()) + int((probability >= threshold).sum()) for probability, truth, _ in cases)


def together(cases: Cases, threshold: float) -> dict[str, float]:
    """Return the scores of all slabs of a person together."""
    found = [lesion_scores(probability >= threshold, truth, spacing) for probability, truth, spacing in cases]

    def share(measure: str, count: str) -> float:
        total = sum(scores[count] or 0 for scores in found)
        return sum((scores[measure] or 0) * (scores[count] or 0) for scores in found) / total if total else 0.0

    return {
        "dice": pooled_dice(cases, threshold),
        "sensitivity": share("lesion_sensitivity", "reference_lesions"),
        "precision": share("lesion_precision", "predicted_lesions"),
        "lesions": sum(scores["reference_lesions"] or 0 for scores in found),
        "found": sum(scores["predicted_lesions"] or 0 for scores in found),
        "false_positive_ml": sum(scores["false_positive_ml"] or 0 for scores in found),
    }


def report(rows: dict[str, dict[str, Any]], seeds: int) -> bool:
    """Print a table; return whether the window wins for each seed."""
    print("| net | threshold | Dice | lesions found | right ones | ml in slabs without a lesion | steps |")
    print("|---|---|---|---|---|---|---|")
    for arm in ARMS:
        every = [rows[f"{arm}, seed {seed}"] for seed in range(seeds)]
        steps = " / ".join(str(row["steps"]) for row in every)
        for kind, word in (("half", "0.5"), ("best", "best")):
            cells = []
            for measure in MEASURES:
                values = [row[kind][measure] for row in every]
                spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
                cells.append(f"{np.mean(values):.2f}{spread} ({' / '.join(f'{value:.2f}' for value in values)})")
            print(f"| {arm} | {word} | {' | '.join(cells)} | {steps} |")
    held = True
    for seed in range(seeds):
        first, second = (rows[f"{arm}, seed {seed}"] for arm in ARMS)
        for kind in ("half", "best"):
            a, b = first[kind], second[kind]
            held &= a["dice"] > b["dice"] and a["sensitivity"] >= b["sensitivity"]
    print("the window wins for each seed" if held else "the window does not win for each seed")
    return held


def main() -> int:
    """Train and measure what is missing, then tell."""
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path, help="folder of what is kept between calls")
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--fold", type=int, default=0, help="of splits_final.json: who is held out")
    parser.add_argument("--figure", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    dataset, budget = options.data / DATASET, 60 * options.minutes
    split = json.loads((dataset / "splits_final.json").read_text())[options.fold]
    results = options.out / "results.json"
    rows = json.loads(results.read_text()) if results.is_file() else {}
    for seed in range(options.seeds):
        missing = [arm for arm in ARMS if f"{arm}, seed {seed}" not in rows]
        arms = {arm: Arm(ARMS[arm], seed, dataset, split, options.out) for arm in missing}
        for turn in range(1, int(np.ceil(budget / TURN)) + 1):
            for name, arm in arms.items():
                arm.train(min(budget, turn * TURN), budget)
                print(f"{name}, seed {seed}: {arm.steps} steps, {arm.used:.0f} s", flush=True)
        for name, arm in arms.items():
            rows[f"{name}, seed {seed}"] = arm.measure()
            write_json(results, rows)
            print(name, json.dumps(rows[f"{name}, seed {seed}"]), flush=True)
    if options.figure:
        best = rows["window, seed 0"]["best_threshold"]
        Arm(ARMS["window"], 0, dataset, split, options.out).draw(options.figure, best)
    return int(not report(rows, options.seeds))


if __name__ == "__main__":
    raise SystemExit(main())
