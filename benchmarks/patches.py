"""Augmented training patches a second and core: our loader against nnU-Net's, in turns, each in one thread.

    python benchmarks/patches.py [PAIRS]

On the MNI152 slabs with patches of four kinds. The claim: 3 times the patches a second. Fails where it does not hold.
"""

from __future__ import annotations

import contextlib
import io
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", nnUNet_n_proc_DA="0")
sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]
FASTER = 3.0
KINDS = (
    ("3d_fullres", (48, 48, 32), 2),
    ("3d_fullres", (80, 80, 56), 2),
    ("3d_fullres", (128, 128, 128), 2),
    ("2d", (72, 56), 46),
)
SAMPLES = 60  # a measurement


def trainer(dataset: Path, cache: Path, configuration: str, patch: tuple[int, ...], batch: int) -> Any:
    """Return nnU-Net's own trainer on data that are prepared once."""
    import torch
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    from trainers.core.progress import Progress
    from trainers.segmentation.config import SegmentationSettings
    from trainers.segmentation.prepare import prepare

    settings = SegmentationSettings(configuration=configuration, patch_size=patch, batch_size=batch)
    prepared = prepare(dataset, cache, settings, 2, Progress(io.StringIO()))
    plans = {**prepared.plans, "continue_training": False}
    made = nnUNetTrainer(plans, configuration, 0, prepared.dataset_json, torch.device("cpu"))
    made.initialize()
    return made


def spent(loader: Any, batches: int) -> float:
    """Return processor seconds."""
    start = time.process_time()
    for _ in range(batches):
        next(loader)
    return time.process_time() - start


def main(pairs: int) -> None:
    import torch
    from preprocessing import slabs

    from trainers.segmentation.data_path import loaders

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        cache = Path(name)
        dataset = slabs(cache / "slabs")
        for variable, folder in (("raw", cache / "raw"), ("preprocessed", cache), ("results", cache / "results")):
            os.environ[f"nnUNet_{variable}"] = str(folder)
        for configuration, patch, batch in KINDS:
            with contextlib.redirect_stdout(io.StringIO()):
                made = trainer(dataset, cache, configuration, patch, batch)
                theirs, _ = made.get_dataloaders()
                ours, _ = loaders(made, seed=1, threads=0)
            batches = max(3, SAMPLES // batch)
            ratios, rates = [], []
            for _ in range(pairs):
                peer, mine = spent(theirs, batches), spent(ours, batches)
                ratios.append(peer / mine)
                rates.append((batches * batch / peer, batches * batch / mine))
            peer, mine = (statistics.median(rate[i] for rate in rates) for i in (0, 1))
            ratio = statistics.median(ratios)
            print(f"{configuration} {patch}: {peer:.0f} patches a second, ours {mine:.0f}: {ratio:.1f} times")
            assert ratio >= FASTER


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
