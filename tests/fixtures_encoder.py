"""A run of recipe `pretrain` as a training leaves it, with random weights, its package, and a repo to start from it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from fixtures_release import TAG, TinyPackage

NAME, DATASET = "model_pretrain_sc", "Dataset530_SpineSSL"
FOLDER = "mreg_mae_resenc__nnsslPlans__onemmiso"
MODEL_TOML = f"""\
[model]
name = "{NAME}"
description = "Encoder pre-trained on images of the spinal cord"
licence = "MIT"

[data]
dataset = "data/raw/{DATASET}"
source = "https://example.org/spine, version 3"

[train]
recipe = "pretrain"
encoder_options = {{ features = [4, 8, 8], blocks = [1, 1, 2] }}
"""

SEGMENTATION, LABELLED = "model_seg_sc_t2", "Dataset501_SpinalCordT2w"
SEGMENTATION_TOML = f"""\
[model]
name = "{SEGMENTATION}"

[data]
dataset = "data/raw/{LABELLED}"

[train]
configuration = "3d_fullres"
patch_size = [16, 16, 16]
epochs = 2
iterations = 2
val_iterations = 1
batch_size = 2
checkpoint_minutes = 0
device = "cpu"
"""


def write_segmentation_repo(root: Path, test_data: Path, every: int = 3) -> Path:
    """Write the repo of a model that segments the cord, with every third of twelve labelled images; return it."""
    source, target = test_data / "nnUNet_raw" / LABELLED, root / "data" / "raw" / LABELLED
    cases = sorted(path.name.removesuffix(".nii.gz") for path in (source / "labelsTr").glob("*.nii.gz"))[::every]
    for folder, tail in (("imagesTr", "_0000.nii.gz"), ("labelsTr", ".nii.gz")):
        (target / folder).mkdir(parents=True)
        for case in cases:
            shutil.copyfile(source / folder / f"{case}{tail}", target / folder / f"{case}{tail}")
    document = json.loads((source / "dataset.json").read_text()) | {"numTraining": len(cases)}
    (target / "dataset.json").write_text(json.dumps(document))
    (target / "splits_final.json").write_text(json.dumps([{"train": cases[1:], "val": cases[:1]}]))
    (root / "model.toml").write_text(SEGMENTATION_TOML)
    return root


def write_encoder_repo(repo: Path, encoder: str = "resenc") -> Path:
    """Write a model's repo with one finished run; return the run."""
    import torch

    from trainers.nets.primus import PrimusConfig
    from trainers.nets.resenc import ResEncConfig
    from trainers.pretraining.checkpoint import adaptation_plan, options_of, save_final
    from trainers.pretraining.methods import make
    from trainers.pretraining.plan import make_plans

    torch.manual_seed(3)
    method: Any = make("mae", encoder, tiny=True)
    net: Any = ResEncConfig(features=(4, 8, 8), blocks=(1, 1, 2))
    if encoder == "primus":
        net = PrimusConfig(width=24, depth=2, heads=2, patch=method.seen)
    plans = make_plans(DATASET, [[1.0, 1.0, 1.0]], "LPI")
    plans["configurations"] = {"onemmiso": plans["configurations"]["onemmiso"]}
    plan = adaptation_plan(method, net, plans, tiny=True)
    lines = [{"epoch": e, "loss": 1.0 - e / 4, "val_loss": 0.9 - e / 4, "learning_rate": 0.01} for e in range(2)]
    trainer = f"mreg_mae_{encoder}"
    run = repo / "runs" / f"pretrain-mae-{encoder}-1a2b3c4d"
    (run / "fold_all").mkdir(parents=True)
    (repo / "model.toml").write_text(MODEL_TOML)
    about = {
        "logging": {"train_losses": [1.0, 0.75]}, "best": 0.65, "epochs": 2, "trainer_name": trainer, "method": "mae",
        "encoder": encoder, **options_of(method, net),
    }  # fmt: skip
    save_final(run / "fold_all" / "checkpoint_final.pth", method.module(net).state_dict(), plan, about)
    (run / "fold_all" / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    settings = {"method": "mae", "encoder": encoder, "folds": ["all"], "configuration": "onemmiso"}
    facts = {"num_training": 14, "num_subjects": 7, "modalities": ["T1w", "T2w"], "image_orientation": "LPI"}
    documents = {
        "config": {
            "recipe": "pretrain", "trainer": trainer, "plans": "nnsslPlans", "configuration": "onemmiso",
            "settings": settings, "repo": NAME,
            "dataset": {"name": DATASET, "id": 530, "path": f"data/raw/{DATASET}", "hash": "cd" * 32, **facts},
        },
        "plans": plans,
        "adaptation_plan": plan,
        "environment": {"python": "3.11.7", "packages": {"torch": "2.13.0"}, "device": {"type": "cpu"}, "seed": 1},
    }  # fmt: skip
    for name, document in documents.items():
        (run / f"{name}.json").write_text(json.dumps(document, indent=2) + "\n")
    return run


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a complete run of a ResEnc inside a model's repo, shared by all tests: copy before changing anything."""
    return write_encoder_repo(tmp_path_factory.mktemp("encoder") / NAME)


@pytest.fixture(scope="session")
def tiny_encoder_package(tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> TinyPackage:
    """Return the package of the tiny encoder, shared by all tests."""
    from registry.packaging import package

    out = tmp_path_factory.mktemp("encoder-package") / TAG
    made = package(tiny_encoder, tag=TAG, out=out)
    return TinyPackage(made.archive, made.manifest)
