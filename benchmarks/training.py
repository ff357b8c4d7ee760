"""Training steps and epochs: ours against stock nnU-Net with its best number of loader processes, in turns.

    python benchmarks/training.py [PAIRS] [--only NAME] [--threads N] [--device cuda]

Same data (MNI152 slabs), plans, network and threads; a step is reading, augmentation, forward, backward and optimiser,
an epoch has validation, log, figure and checkpoint, too. Every competitor is a process of its own; all wait while one
is measured, and what a loader has prepared meanwhile is thrown away first. Wall-clock ratios count; those of processor
seconds, loader processes included, say what the load of a shared machine hides.

The claims on a CPU: 1.8 times the steps a second where the processor has bfloat16, not slower where it has not (0.98 is
what pairs on a shared machine can tell). On a GPU at least 0.9 of the speed on a constant batch. Fails where one does
not hold.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]
BF16_FASTER, NOT_SLOWER, OF_THE_LIMIT = 1.8, 0.98, 0.9
CACHED = 8  # batches that a waiting loader of nnU-Net may hold


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What is trained."""

    name: str
    configuration: str
    patch: tuple[int, ...]
    batch: int
    features: tuple[int, ...] | None  # None: as planned
    steps: int  # of one measurement
    validation: int = 0  # steps of an epoch's validation; 0: steps alone
    workers: tuple[int, ...] = (0, 1, 2)  # nnU-Net's loader processes that are tried


SMALL = (16, 32, 64, 128)
CPU = (
    Kind(name="3D small", configuration="3d_fullres", patch=(48, 48, 32), batch=2, features=SMALL, steps=8),
    Kind(name="3D planned", configuration="3d_fullres", patch=(80, 80, 56), batch=2, features=None, steps=1),
    Kind(name="2D planned", configuration="2d", patch=(72, 56), batch=46, features=None, steps=3),
    Kind(
        name="epoch", configuration="3d_fullres", patch=(48, 48, 32), batch=2, features=SMALL, steps=40, validation=8,
        workers=(2,),
    ),  # nnU-Net's best number for these steps
)  # fmt: skip
CUDA = (
    Kind(
        name="3D large",
        configuration="3d_fullres",
        patch=(128, 128, 128),
        batch=2,
        features=None,
        steps=50,
        workers=(12,),
    ),
)


def make(kind: Kind, dataset: Path, cache: Path, device: Any, competitor: str) -> Any:
    """Return a trainer that is ready for its first step: ours over nnU-Net's class, or nnU-Net's class itself."""
    import torch
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    from trainers.core import trackers
    from trainers.core.environment import cpu_count
    from trainers.core.estimate import Estimate
    from trainers.core.progress import Progress
    from trainers.segmentation.config import SegmentationSettings
    from trainers.segmentation.prepare import prepare
    from trainers.segmentation.trainer import Place, wrap

    torch.set_num_threads(int(os.environ["MREG_BENCHMARK_THREADS"]) if device.type == "cpu" else 1)
    settings = SegmentationSettings(
        configuration=kind.configuration, patch_size=kind.patch, batch_size=kind.batch, features=kind.features
    )
    quiet = Progress(io.StringIO())
    prepared = prepare(dataset, cache, settings, 2, quiet)
    names = sorted(path.stem for path in prepared.folder.glob("*/*.pkl"))
    splits = [{"train": names, "val": names[:1]}]
    (prepared.folder / "splits_final.json").write_text(json.dumps(splits))
    threads = 0 if device.type == "cpu" else min(8, cpu_count())
    place = Place(
        run=cache / "run", fold=0, splits=splits, seed=1, checkpoint_seconds=300, progress=quiet, threads=threads
    )
    place.folder.mkdir(parents=True, exist_ok=True)
    ours = competitor != "nnU-Net"
    made = (wrap(nnUNetTrainer, place) if ours else nnUNetTrainer)(
        {**prepared.plans, "continue_training": False}, kind.configuration, 0, prepared.dataset_json, device
    )
    made.initialize()
    made.num_iterations_per_epoch, made.num_val_iterations_per_epoch = max(kind.steps, 2), kind.validation
    if ours:
        made._advance = lambda *_, **__: None  # noqa: SLF001 - what run_training sets
        made._estimate = Estimate(quiet, device, iterations=1, epochs_left=1)  # noqa: SLF001
        made._log = trackers.Trackers(place.folder, (), figure=False)  # noqa: SLF001
    made.on_train_start()
    made.on_epoch_start()
    made.on_train_epoch_start()
    if competitor == "constant":
        made.dataloader_train = Constant(made.dataloader_train)
    return made


class Constant:
    """The same batch again and again: what the network could do if reading cost nothing."""

    def __init__(self, loader: Any) -> None:
        self.batch = next(loader)

    def __next__(self) -> Any:
        """Return the batch, whose tensors a step may change."""
        return {
            **self.batch,
            "data": self.batch["data"].clone(),
            "target": [target.clone() for target in self.batch["target"]],
        }


def spent() -> float:
    """Return the processor seconds of this process and of those of its group that live."""
    ticks, group = 0, os.getpgid(0)
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = path.read_text().rpartition(")")[2].split()
            ticks += sum(int(field) for field in fields[11:13]) if int(fields[2]) == group else 0
    return ticks / os.sysconf("SC_CLK_TCK")


def steps(made: Any, count: int) -> tuple[float, float]:
    """Return the wall-clock and processor seconds of so many steps."""
    import torch

    if getattr(made, "_outputs", None):
        made._outputs.clear()  # noqa: SLF001 - an epoch that never ends
    for _ in range(CACHED):
        next(made.dataloader_train)
    before, start = spent(), time.perf_counter()
    for _ in range(count):
        made.train_step(next(made.dataloader_train))
    if made.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start, spent() - before


def epoch(made: Any) -> tuple[float, float]:
    """Return the wall-clock and processor seconds of an epoch, as each trainer runs it."""
    import torch

    if getattr(made, "_outputs", None):
        made._outputs.clear()  # noqa: SLF001
    before, start = spent(), time.perf_counter()
    if hasattr(made, "_train_epoch"):
        made._train_epoch()  # noqa: SLF001
        return time.perf_counter() - start, spent() - before
    made.on_epoch_start()
    made.on_train_epoch_start()
    made.on_train_epoch_end(
        [made.train_step(next(made.dataloader_train)) for _ in range(made.num_iterations_per_epoch)]
    )
    with torch.no_grad():
        made.on_validation_epoch_start()
        found = [made.validation_step(next(made.dataloader_val)) for _ in range(made.num_val_iterations_per_epoch)]
        made.on_validation_epoch_end(found)
    made.on_epoch_end()
    return time.perf_counter() - start, spent() - before


def serve(job: dict[str, Any]) -> None:
    """Be one competitor: answer every line of stdin with the seconds of a measurement."""
    import torch

    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # nnU-Net talks to stdout
    kind = Kind(**{**job["kind"], "patch": tuple(job["kind"]["patch"])})
    device = torch.device(job["device"])
    made = make(kind, Path(job["dataset"]), Path(job["cache"]), device, job["competitor"])
    made.train_step(next(made.dataloader_train))
    weights = sum(p.numel() for p in made.network.parameters())
    print(json.dumps([weights, torch.get_num_threads()]), file=answers)
    for _ in sys.stdin:
        print(json.dumps(epoch(made) if kind.validation else steps(made, kind.steps)), file=answers)


class Competitor:
    """A process that waits until it is asked to train."""

    def __init__(self, kind: Kind, dataset: Path, cache: Path, device: str, name: str, workers: int = 0) -> None:
        self.name = f"{name}, {workers} processes" if name == "nnU-Net" else name
        job = {"kind": asdict(kind), "dataset": str(dataset), "cache": str(cache), "device": device, "competitor": name}
        environment = {
            **os.environ, "nnUNet_raw": str(cache / "raw"), "nnUNet_preprocessed": str(cache),
            "nnUNet_results": str(cache / f"results{workers}"), "nnUNet_n_proc_DA": str(workers),
        }  # fmt: skip
        environment.pop("OMP_NUM_THREADS", None)
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - lives as long as the process
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--serve", json.dumps(job)], env=environment, text=True, bufsize=1,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, process_group=0,
        )  # fmt: skip
        self.weights, self.threads = self._answer()

    def _answer(self) -> Any:
        line = self._process.stdout.readline()  # type: ignore[union-attr]
        if not line:
            self._log.seek(0)
            raise RuntimeError(f"{self.name} died:\n{self._log.read()[-3000:]}")
        return json.loads(line)

    def measure(self) -> tuple[float, float]:
        """Return the wall-clock and processor seconds of one measurement."""
        print(file=self._process.stdin)
        wall, processor = self._answer()
        return wall, processor

    def end(self) -> None:
        """End it and the processes that it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate()


def compare(kind: Kind, dataset: Path, cache: Path, device: str, pairs: int) -> bool:
    """Measure ours and stock nnU-Net in turns and print a row; return whether the claim holds."""
    peers = [Competitor(kind, dataset, cache, device, "nnU-Net", workers) for workers in kind.workers]
    ours = Competitor(kind, dataset, cache, device, "ours")
    constant = [Competitor(kind, dataset, cache, device, "constant")] if device != "cpu" else []
    every = [*peers, ours, *constant]
    try:
        for competitor in every:
            competitor.measure()  # warms up
        trial = {peer: min(peer.measure()[0] for _ in range(2)) for peer in peers if len(peers) > 1}
        best = min(trial, key=lambda peer: trial[peer], default=peers[0])
        for peer in peers:
            if peer is not best:
                peer.end()
        rows, load = [], []
        for number in range(pairs):
            turn = [best, ours, *constant][:: 1 if number % 2 else -1]
            found = {competitor.name: competitor.measure() for competitor in turn}
            load.append(os.getloadavg()[0])
            rows.append([found[competitor.name] for competitor in (best, ours, *constant)])
    finally:
        for competitor in every:
            competitor.end()
    return report(kind, ours, best.name, rows, load, device)


def report(kind: Kind, ours: Competitor, peer: str, rows: list[Any], load: list[float], device: str) -> bool:
    """Print what was measured; return whether the claim holds."""
    import torch

    from trainers.core.environment import bf16_here

    ratios = sorted(row[0][0] / row[1][0] for row in rows)
    ratio, processor = statistics.median(ratios), statistics.median(row[0][1] / row[1][1] for row in rows)
    per = 1 if kind.validation else kind.steps
    theirs, mine = (statistics.median(row[i][0] for row in rows) / per for i in (0, 1))
    wanted = BF16_FASTER if bf16_here(torch.device(device)) and device == "cpu" else NOT_SLOWER
    print(
        f"{kind.name} {kind.patch}, batch {kind.batch}, {ours.weights / 1e6:.2f} M weights, {ours.threads} threads: "
        f"{peer} {theirs:.3f} s {'an epoch' if kind.validation else 'a step'}, ours {mine:.3f} s, {ratio:.2f} times as "
        f"fast ({ratios[0]:.2f} to {ratios[-1]:.2f}; wanted {wanted}), processor seconds {processor:.2f}, "
        f"load {min(load):.1f} to {max(load):.1f}",
        flush=True,
    )
    if device == "cpu":
        return ratio >= wanted
    share = statistics.median(row[2][0] / row[1][0] for row in rows)
    print(f"  {share:.2f} of the speed on a constant batch (wanted {OF_THE_LIMIT})", flush=True)
    return ratio >= wanted and share >= OF_THE_LIMIT


def main() -> int:
    """Compare everything, or one kind."""
    from preprocessing import slabs

    parser = argparse.ArgumentParser()
    parser.add_argument("pairs", type=int, nargs="?", default=5)
    parser.add_argument("--only", help="name of one kind")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of the network on a CPU")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    options = parser.parse_args()
    os.environ["MREG_BENCHMARK_THREADS"] = str(options.threads)
    kinds = [kind for kind in (CPU if options.device == "cpu" else CUDA) if options.only in (None, kind.name)]
    with tempfile.TemporaryDirectory() as name:
        cache = Path(name)
        dataset = slabs(cache / "slabs")
        held = [compare(kind, dataset, cache, options.device, options.pairs) for kind in kinds]
    return int(not all(held))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(json.loads(sys.argv[2]))
    else:
        raise SystemExit(main())
