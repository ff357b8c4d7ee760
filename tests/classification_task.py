"""Trains a fold of a small classification task: `python tests/classification_task.py DATASET CACHE FOLDER`.

Under torchrun each process takes its share of every batch.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

from trainers.classification.config import ClassificationSettings
from trainers.classification.dataset import read_dataset
from trainers.classification.folds import cases_of, make_splits
from trainers.classification.train import build, prepare, train_fold
from trainers.core.distributed import Ranks, join
from trainers.core.progress import Progress
from trainers.core.stopping import Stopping

CPU = torch.device("cpu")
SETTINGS = {
    "width": 0.125, "max_voxels": 4096, "epochs": 3, "iterations": 3, "batch_size": 4, "num_folds": 3, "folds": [0],
    "device": "cpu", "checkpoint_minutes": 0,
}  # fmt: skip


def train(dataset: Path, cache: Path, folder: Path, ranks: Ranks | None = None, **changes: Any) -> str:
    """Train fold 0 in a folder; return why it stopped."""
    minutes = changes.pop("minutes", None)
    settings = ClassificationSettings.model_validate({**SETTINGS, **changes}).resolved()
    found = read_dataset(dataset)
    plan, store = prepare(found, cache, settings, Progress())
    cases = cases_of(found, make_splits(found, settings.num_folds, settings.seed), 0)
    task = build(plan, settings, store, 0, cases, CPU, ranks)
    with Stopping(minutes) as stopping:
        return train_fold(task, settings, folder, CPU, Progress(), stopping, ranks)


if __name__ == "__main__":
    torch.set_num_threads(1)
    with join(CPU) as (place, _):
        train(*map(Path, sys.argv[1:4]), place, epochs=1)
