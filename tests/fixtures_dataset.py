"""A small raw dataset of real MRI that is always there: pieces of the MNI152 template in nilearn's wheel."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from registry import demo_data

NAME = "Dataset702_Tissue"
CASES = ("sub-01_T1w", "sub-02_T1w", "sub-03_T1w")
MODEL_TOML = f"""\
[model]
name = "model_seg_gm-wm_t1"

[data]
dataset = "data/raw/{NAME}"

[train]
configuration = "2d"
epochs = 3
iterations = 4
val_iterations = 1
patch_size = [32, 32]
features = [4, 8, 8]
batch_size = 2
checkpoint_minutes = 0
device = "cpu"
"""


def write_dataset(folder: Path) -> Path:
    """Write three training cases and one test case of 48 x 48 x 6 voxels, 1 mm, orientation LPI."""
    files = {kind: nib.load(path) for kind, path in demo_data.template_files().items()}
    t1, gm, wm = (np.asarray(files[kind].dataobj) for kind in ("t1", "gm", "wm"))
    label = np.where(gm.astype(int) + wm > 127, np.where(gm >= wm, 1, 2), 0).astype(np.uint8)
    root = folder / NAME
    for number, case in enumerate((*CASES, "sub-04_T1w")):
        part = "Ts" if number == len(CASES) else "Tr"
        box = (slice(60, 108), slice(60, 108), slice(70 + 8 * number, 76 + 8 * number))
        for kind, data, name in (("images", t1, f"{case}_0000"), ("labels", label, case)):
            path = root / f"{kind}{part}" / f"{name}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(data[box], np.eye(4)), path)
    document = {
        "channel_names": {"0": "T1w"},
        "labels": {"background": 0, "gm": 1, "wm": 2},
        "numTraining": len(CASES),
        "numTest": 1,
        "file_ending": ".nii.gz",
        "image_orientation": "LPI",
    }
    (root / "dataset.json").write_text(json.dumps(document))
    splits = [{"train": [c for c in CASES if c != case], "val": [case]} for case in CASES]
    (root / "splits_final.json").write_text(json.dumps(splits))
    return root


def write_repo(root: Path) -> Path:
    """Write a model's repo with that dataset and settings for a training of seconds."""
    write_dataset(root / "data" / "raw")
    (root / "model.toml").write_text(MODEL_TOML)
    return root


@pytest.fixture(scope="session")
def trained_repo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a repo in which fold 0 was trained once; copy it before changing it."""
    from command import run_mreg

    repo = write_repo(tmp_path_factory.mktemp("trained") / "model_seg_gm-wm_t1")
    done = run_mreg("train", "--json", cwd=repo)
    assert done.returncode == 0, done.stderr
    return repo
