"""A small classification dataset of real MRI that is always there: pieces of the MNI152 template, two labels."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np

from registry import demo_data

NAME = "Task701_BrainPiece"
# Of a training that takes a second.
SETTINGS = {
    "width": 0.125, "max_voxels": 4096, "epochs": 3, "iterations": 3, "batch_size": 4, "num_folds": 3, "folds": [0],
    "device": "cpu", "checkpoint_minutes": 0,
}  # fmt: skip
LABELS = [
    {"name": "Contrast", "ordinal": False, "values": {"0": "T1w", "1": "gray matter"}},
    {"name": "Height", "ordinal": True, "values": {"0": "low", "1": "middle", "2": "high"}},
]
HEIGHTS = (40, 80, 120)
CASES = 15
EDGE = 24


def write_task(folder: Path, *, masks: bool = True, modalities: int = 1, cases: int = CASES) -> Path:
    """Write cases of 24 x 26 x 28 voxels, 1 mm, in several places of the brain; masks are its gray matter."""
    files = {kind: nib.load(path) for kind, path in demo_data.template_files().items()}
    t1, gm = (np.asarray(files[kind].dataobj).astype(np.float32) for kind in ("t1", "gm"))
    root = folder / NAME
    training = []
    rng = np.random.default_rng(5)
    for number in range(cases):
        case, contrast, height = f"brain_piece_{number:04d}", number % 2, number % 3
        x, y = rng.integers(60, 100, 2)
        box = (slice(x, x + EDGE), slice(y, y + EDGE + 2), slice(HEIGHTS[height], HEIGHTS[height] + EDGE + 4))
        piece = gm[box] if contrast else t1[box]
        for modality in range(modalities):
            _save(root / "imagesTr" / f"{case}_{modality:04d}.nii.gz", piece + 10 * modality)
        entry = {"image": f"./imagesTr/{case}.nii.gz", "Contrast": contrast, "Height": height}
        if masks:
            mask = np.zeros(piece.shape, np.uint8)
            inside = (slice(3, -3),) * 3
            mask[inside] = gm[box][inside] > 100
            _save(root / "labelsTr" / f"{case}.nii.gz", mask)
            entry["label"] = f"./labelsTr/{case}.nii.gz"
        training.append(entry)
    document = {
        "name": "BrainPiece",
        "tensorImageSize": "3D",
        "modality": {str(n): "MRI" for n in range(modalities)},
        "classification_labels": LABELS,
        **({"labels": {"0": "background", "1": "gray matter"}} if masks else {}),
        "numTraining": cases,
        "training": training,
    }
    (root / "dataset.json").write_text(json.dumps(document, indent=1))
    return root


def edit(root: Path, **changes: object) -> None:
    """Change keys of dataset.json; None takes one away."""
    document = json.loads((root / "dataset.json").read_text()) | changes
    (root / "dataset.json").write_text(json.dumps({k: v for k, v in document.items() if v is not None}, indent=1))


def edit_case(root: Path, number: int, **changes: object) -> None:
    """Change keys of a training case; None takes one away, "null" makes it null."""
    document = json.loads((root / "dataset.json").read_text())
    case = {k: v for k, v in (document["training"][number] | changes).items() if v is not None}
    document["training"][number] = {k: None if v == "null" else v for k, v in case.items()}
    (root / "dataset.json").write_text(json.dumps(document, indent=1))


def _save(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, np.diag([-1.0, 1, 1, 1]) if affine is None else affine), path)
