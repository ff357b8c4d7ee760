"""Learning is not traded for speed: ours against stock nnU-Net after equal iterations, three seeds, held-out cases.

    python benchmarks/accuracy.py [WORK] [--data RAW_DATASET] [--seeds N] [--iterations N] [--jobs N] [--report]

Two tasks: the spinal cord of Dataset501 in 3D, each subject held out once, and grey and white matter of the MNI152
slabs in 2D, every third slab held out. Both trainers get the same plans (small networks, made for this comparison) and
the same preprocessed cases, and both networks are measured in the same way: nnU-Net's own predictor without mirroring,
Dice against the labels at the plan's spacing. Each training is a process of one thread; what is done stays in WORK, so
the script can be killed and started again. The claim: the mean Dice is not below nnU-Net's by more than 0.01.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import math
import os
import random
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]
WORSE = 0.01  # mean Dice that may be lost
TRAINERS = ("ours", "nnU-Net")
EPOCHS = 5  # the schedule falls with each
VALIDATION = 1  # steps an epoch, which change nothing


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is learned."""

    name: str
    configuration: str
    patch: tuple[int, ...]
    batch: int
    features: tuple[int, ...]


CORD = Task(name="cord", configuration="3d_fullres", patch=(40, 40, 32), batch=2, features=(8, 16, 32))
TISSUE = Task(name="tissue", configuration="2d", patch=(96, 96), batch=8, features=(8, 16, 32, 64))


def splits_of(task: Task, dataset: Path) -> list[dict[str, list[str]]]:
    """Return the folds: the data set's own by subject, or one with every third slab."""
    if (dataset / "splits_final.json").is_file() and task is CORD:
        return list(json.loads((dataset / "splits_final.json").read_text()))
    cases = sorted(path.name.partition(".")[0] for path in (dataset / "labelsTr").glob("*.nii.gz"))
    held_out = cases[1::3]
    return [{"train": [case for case in cases if case not in held_out], "val": held_out}]


def environment(cache: Path, results: Path) -> dict[str, str]:
    """Return nnU-Net's variables; its loaders work in line with the training."""
    return {
        **os.environ, "nnUNet_raw": str(cache / "raw"), "nnUNet_preprocessed": str(cache),
        "nnUNet_results": str(results), "nnUNet_n_proc_DA": "0", "OMP_NUM_THREADS": "1",
    }  # fmt: skip


def train(job: dict[str, Any]) -> dict[str, float]:
    """Train once and return the mean Dice of each held-out case."""
    import torch
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    from trainers.core.environment import seed_everything
    from trainers.core.progress import Progress
    from trainers.segmentation.config import SegmentationSettings
    from trainers.segmentation.prepare import prepare
    from trainers.segmentation.trainer import Place, wrap

    torch.set_num_threads(1)
    task, fold = job["task"], job["fold"]
    settings = SegmentationSettings(
        configuration=task["configuration"],
        patch_size=tuple(task["patch"]), batch_size=task["batch"], features=tuple(task["features"]),
    )  # fmt: skip
    quiet = Progress(io.StringIO())
    prepared = prepare(Path(job["dataset"]), Path(job["cache"]), settings, 1, quiet)
    seed_everything(job["seed"])
    place = Place(
        run=Path(job["run"]), fold=fold, splits=job["splits"], seed=job["seed"], checkpoint_seconds=1e9, progress=quiet
    )
    place.folder.mkdir(parents=True, exist_ok=True)
    trainer_class = wrap(nnUNetTrainer, place) if job["trainer"] == "ours" else nnUNetTrainer
    trainer = trainer_class(
        {**prepared.plans, "continue_training": False}, settings.configuration, fold, prepared.dataset_json,
        torch.device("cpu"),
    )  # fmt: skip
    trainer.num_epochs, trainer.num_val_iterations_per_epoch = EPOCHS, VALIDATION
    trainer.num_iterations_per_epoch = job["iterations"] // EPOCHS
    trainer.initialize()
    seed_everything(job["seed"] + 1)  # the loaders' draws do not depend on how many the network's weights took
    trainer.run_training()
    return dice_of(trainer, job["splits"][fold]["val"])


def dice_of(trainer: Any, cases: list[str]) -> dict[str, float]:
    """Return the mean Dice of the labels, a case."""
    import numpy as np
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    trainer.set_deep_supervision_enabled(False)
    trainer.network.eval()
    predictor = nnUNetPredictor(use_mirroring=False, device=trainer.device, allow_tqdm=False)
    predictor.manual_initialization(
        trainer.network, trainer.plans_manager, trainer.configuration_manager, None, trainer.dataset_json,
        "nnUNetTrainer", None,
    )  # fmt: skip
    found = {}
    for case in cases:
        data, labels, _, _ = trainer.dataset_class(trainer.preprocessed_dataset_folder, [case]).load_case(case)
        logits = predictor.predict_sliding_window_return_logits(torch.from_numpy(np.array(data[:])))
        predicted, truth = logits.argmax(0).numpy(), np.array(labels[:])[0]
        values = []
        for label in trainer.label_manager.foreground_labels:
            mine, wanted = predicted == label, truth == label
            values.append(2 * (mine & wanted).sum() / max(1, mine.sum() + wanted.sum()))
        found[case] = float(np.mean(values))
    return found


def run(job: dict[str, Any], result: Path) -> None:
    """Train in a process of its own, unless that was done before."""
    if result.is_file():
        return
    start = time.monotonic()
    log = result.with_suffix(".log")
    with log.open("w") as file:
        done = subprocess.run(
            [sys.executable, __file__, "--job", json.dumps(job), str(result)],
            env=environment(Path(job["cache"]), Path(job["run"])), stdout=file, stderr=file, check=False,
        )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{log}:\n{log.read_text()[-3000:]}")
    print(f"{result.stem}: {time.monotonic() - start:.0f} s, {json.loads(result.read_text())}", flush=True)


def prepare_once(task: Task, dataset: Path, cache: Path) -> None:
    """Preprocess before the trainings start side by side."""
    from trainers.core.progress import Progress
    from trainers.segmentation.config import SegmentationSettings
    from trainers.segmentation.prepare import prepare

    os.environ.update(environment(cache, cache))
    settings = SegmentationSettings(configuration=task.configuration)  # type: ignore[arg-type]
    with contextlib.redirect_stdout(io.StringIO()):
        prepared = prepare(dataset, cache, settings, 2, Progress(io.StringIO()))
    (prepared.folder / "splits_final.json").write_text(json.dumps(splits_of(task, dataset)))


def report(name: str, results: dict[tuple[str, int, int], dict[str, float]], length: str) -> bool:
    """Print a task's means over held-out cases, and the difference of pairs (same seed and fold) with its error.

    Returns whether the mean difference is within what may be lost.
    """
    pairs = sorted({key[1:] for key in results if all((who, *key[1:]) in results for who in TRAINERS)})
    for trainer in TRAINERS:
        by_seed = [
            statistics.mean(value for at, fold in pairs if at == seed for value in results[trainer, at, fold].values())
            for seed in sorted({seed for seed, _ in pairs})
        ]
        spread = statistics.stdev(by_seed) if len(by_seed) > 1 else math.nan
        values = " ".join(f"{value:.3f}" for value in by_seed)
        print(f"{name}, {length}, {trainer}: Dice {statistics.mean(by_seed):.4f} ± {spread:.4f} a seed ({values})")
    apart = [
        statistics.mean(results["ours", *pair].values()) - statistics.mean(results["nnU-Net", *pair].values())
        for pair in pairs
    ]
    error = statistics.stdev(apart) / math.sqrt(len(apart)) if len(apart) > 1 else math.nan
    difference = statistics.mean(apart)
    print(f"{name}: ours - nnU-Net {difference:+.4f} ± {error:.4f} ({len(apart)} pairs; wanted ≥ -{WORSE})", flush=True)
    return difference >= -WORSE


def main() -> int:
    """Train what is missing, in random order, and report."""
    from preprocessing import slabs

    parser = argparse.ArgumentParser()
    parser.add_argument("work", type=Path, nargs="?", default=Path("accuracy"))
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared/data/nnUNet_raw/Dataset501_SpinalCordT2w")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--iterations", type=int, default=250)
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="trainings side by side")
    parser.add_argument("--report", action="store_true", help="train nothing, report the pairs that are there")
    options = parser.parse_args()
    work = options.work.resolve()
    results = work / f"results-{options.iterations}"
    results.mkdir(parents=True, exist_ok=True)
    slab_set = next((work / "slabs").glob("Dataset*"), None) or slabs(work / "slabs")
    jobs: dict[Path, dict[str, Any]] = {}
    for task, dataset in ((CORD, options.data.resolve()), (TISSUE, slab_set)):
        if not dataset.is_dir():
            print(f"{task.name}: left out, {dataset} is not there", file=sys.stderr)
            continue
        cache = work / "cache" / task.name
        prepare_once(task, dataset, cache)
        folds = splits_of(task, dataset)
        for fold in range(len(folds)):
            for seed in range(options.seeds):
                for trainer in TRAINERS:
                    result = results / f"{task.name}-{trainer}-fold{fold}-seed{seed}.json"
                    jobs[result] = {
                        "task": asdict(task), "dataset": str(dataset), "cache": str(cache), "fold": fold,
                        "seed": 1000 * (seed + 1) + fold, "trainer": trainer, "splits": folds,
                        "iterations": options.iterations, "run": str(work / "runs" / result.stem),
                    }  # fmt: skip
    order = list(jobs)
    random.Random(0).shuffle(order)  # noqa: S311 - both trainers share whatever else the machine does
    order.sort(key=lambda path: jobs[path]["seed"] // 1000)  # whole seeds first, should this be stopped
    if not options.report:
        with ThreadPoolExecutor(options.jobs) as pool:
            for _ in pool.map(lambda path: run(jobs[path], path), order):
                pass
    held = []
    for task in (CORD, TISSUE):
        found = {
            (job["trainer"], job["seed"] // 1000, job["fold"]): json.loads(path.read_text())
            for path, job in jobs.items()
            if job["task"]["name"] == task.name and path.is_file()
        }
        if found:
            held.append(report(task.name, found, f"{options.iterations} iterations"))
    return int(not held or not all(held))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--job"]:
        from trainers.core.files import write_json

        write_json(Path(sys.argv[3]), train(json.loads(sys.argv[2])))
    else:
        raise SystemExit(main())
