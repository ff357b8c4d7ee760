"""Phantoms for the lesion recipe: a bent cord in fluid, with a bright lesion in some, as an index table on disk."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from trainers.lesion.index import Case, write_index

SETTINGS: dict[str, Any] = {
    "window": 24, "margin": 6, "patch": [24, 24, 24], "base": 4, "depth": 2, "epochs": 6, "iterations": 20, "lr": 5e-3,
    "batch_size": 2, "validate_every": 3, "shift": 3, "rotation": 15, "elastic": 0.5, "device": "cpu",
    "precision": "fp32", "checkpoint_minutes": 0, "hold_mm": 2, "sheets": 2,
}  # fmt: skip


def take_cases(source: Path, dataset: Path, cases: Sequence[str]) -> None:
    """Copy cases of a real nnU-Net dataset; the last one is held out."""
    for folder, ending in (("imagesTr", "_0000.nii.gz"), ("labelsTr", ".nii.gz")):
        (dataset / folder).mkdir(parents=True)
        for case in cases:
            shutil.copy(source / folder / f"{case}{ending}", dataset / folder)
    document = json.loads((source / "dataset.json").read_text()) | {"numTraining": len(cases)}
    (dataset / "dataset.json").write_text(json.dumps(document))
    (dataset / "splits_final.json").write_text(json.dumps([{"train": cases[:-1], "val": cases[-1:]}]))


def write_training(repo: Path, text: str) -> None:
    """Put tables into the model.toml of a new repo, in place of its dataset and what follows up to the release."""
    path = repo / "model.toml"
    before, _, rest = path.read_text().partition('dataset = ""')
    _, _, after = rest.partition("\n[release]")
    path.write_text(f"{before}{text}\n[release]{after}")


def phantom(seed: int, *, lesion: bool = True) -> dict[str, np.ndarray]:
    """Return image, cord and lesion masks of 48 x 44 x 40 voxels of 0.5 mm."""
    rng = np.random.default_rng(seed)
    x, y, z = np.meshgrid(*(np.arange(n, dtype=float) for n in (48, 44, 40)), indexing="ij")
    away = (x - 24 - 3 * np.sin(z / 12 + seed)) ** 2 + (y - 22 - 0.05 * z) ** 2
    image = np.where(away < 36, 500.0, np.where(away < 81, 2400.0, 900.0))
    spot = np.zeros(x.shape, dtype=bool)
    if lesion:
        at = rng.integers(8, 32)
        spot = ((z - at) / 4) ** 2 + ((x - 24 - 3 * np.sin(at / 12 + seed)) ** 2 + (y - 22 - 0.05 * at) ** 2) / 9 < 1
        image[spot] = 3600  # no mean of two neighbours looks like it
    return {
        "image": (image + rng.normal(0, 60, x.shape)).astype(np.float32),
        "cord": (away < 36).astype(np.uint8),
        "lesion": spot.astype(np.uint8),
    }


def write_table(folder: Path, count: int = 6) -> Path:
    """Write that many phantoms, two of them for validation, one of which has no lesion; return the table."""
    cases = []
    for number in range(count):
        name = f"sub-{number:02d}_T2w"
        for kind, data in phantom(number, lesion=number != count - 1).items():
            nib.save(nib.Nifti1Image(data, np.diag([-0.5, 0.5, 0.5, 1])), folder / f"{name}_{kind}.nii.gz")
        cases.append(
            Case(
                name=name, subject=f"sub-{number:02d}", contrast="T2w", split="val" if number >= count - 2 else "train",
                **{kind: folder / f"{name}_{kind}.nii.gz" for kind in ("image", "lesion", "cord")},
            )
        )  # fmt: skip
    write_index(cases, folder / "index.csv")
    return folder / "index.csv"


def training_job(table: Path, folder: Path, **changes: Any) -> dict[str, Any]:
    """Return a job as the command line makes it."""
    settings = SETTINGS | {key: value for key, value in changes.items() if key not in {"max_minutes", "pretrained"}}
    return {
        "kind": "train", "dataset": str(table), "run": str(folder / "run"), "cache": str(folder / "cache"),
        "settings": settings, "splits": None, "config": {"dataset": {"hash": "0"}},
        "dataset_json": {"labels": {"background": 0, "lesion": 1}, "channel_names": {"0": "T2w"}},
        **{key: changes[key] for key in ("max_minutes", "pretrained") if key in changes},
    }  # fmt: skip
