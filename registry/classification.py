"""Recipe `classification`: what `mreg train`, `predict` and `evaluate` do where a model classifies whole images."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from registry import planning, workers
from registry.cases import group_images
from registry.classification_dataset import is_classification
from registry.classifier import CONFIGURATION, PLANS, RECIPE, TRAINER
from registry.errors import ConflictError, IntegrityError, MregError, NotFoundError
from registry.files import json_text, read_json, read_object
from registry.runs import FINAL

if TYPE_CHECKING:
    from collections.abc import Sequence

    from registry.model_toml import Repo
    from registry.planning import Planned
    from trainers.catalog import Recipe

DEFAULT_ORIENTATION = "LPI"  # SCT's letters; images are turned to it where dataset.json does not name one
ENDINGS = (".nii.gz", ".nii", ".mha", ".mhd", ".nrrd")
CONTRACT = ("name", "modality", "classification_labels", "labels", "image_orientation", "numTraining")
VALIDATION = "validation.json"
FIGURES = "evaluation"  # folder of a run for the figures of its test cases; those of held-out cases lie in the run
MEASURES = ("macro_auc", "accuracy", "balanced_accuracy", "brier", "ece")
PARTS = {"test": "test", "train": "training"}


def plan(repo: Repo, recipe: Recipe, overrides: dict[str, Any]) -> Planned:
    """Check what model.toml says, changed by `overrides`, against the data; nothing is trained."""
    settings = planning.resolve_settings(recipe.settings, repo.toml.train.settings, overrides)
    dataset = repo.dataset.resolve()
    document = _read_document(dataset)
    files = planning.hash_dataset(repo, dataset)
    # The classes of the cases are part of the data, and stand in dataset.json's list.
    cases = json_text([document["training"], document.get("image_orientation")])
    digest = hashlib.sha256(f"{files}\n{cases}".encode()).hexdigest()
    name = planning.settings_digest(settings, digest, _splits_text(dataset))
    return planning.Planned(
        recipe=recipe, settings=settings, dataset=dataset, dataset_json=_contract(document), digest=digest,
        trainer_file=None, run=repo.runs / f"{RECIPE}-{name}",
    )  # fmt: skip


def cache(repo: Repo, planned: Planned) -> Path:
    """Return the folder of what is computed from the data before a training."""
    return repo.data / "preprocessed" / f"{planned.dataset.name}-{planning.short_digest(planned.digest)}"


def job(repo: Repo, planned: Planned, *, gpus: int, max_minutes: float | None) -> dict[str, Any]:
    """Return the worker's job of a training."""
    document, text = planned.dataset_json, _splits_text(planned.dataset)
    return {
        **planning.job(planned, cache(repo, planned), gpus=gpus, max_minutes=max_minutes),
        "dataset_json": document,
        "splits": json.loads(text) if text else None,
        "config": planning.config(
            repo, planned, trainer=TRAINER, plans=PLANS, configuration=CONFIGURATION, facts=planning.facts(document)
        ),
    }


def _read_document(dataset: Path) -> dict[str, Any]:
    if not dataset.is_dir():
        raise NotFoundError(f"{dataset}: no such dataset", hint="name it in model.toml: [data] dataset")
    if not re.fullmatch(r"Task\d{3}_.+", dataset.name):
        raise MregError(f"{dataset}: a classification dataset is a folder named TaskNNN_Name", hint="rename it")
    document = read_json(dataset / "dataset.json")
    if not isinstance(document, dict) or not is_classification(document):
        raise IntegrityError(
            f"{dataset / 'dataset.json'}: no classification_labels", hint=f"mreg data verify {dataset}"
        )
    if not isinstance(document.get("training"), list):
        raise IntegrityError(f"{dataset / 'dataset.json'}: no list training", hint=f"mreg data verify {dataset}")
    return document


def _contract(document: dict[str, Any]) -> dict[str, Any]:
    """Return what of dataset.json travels with the model: no cases, no paths."""
    kept = {key: document[key] for key in CONTRACT if key in document}
    channels = {"channel_names": document.get("modality", {})}  # the name that all models have for it
    return {"image_orientation": DEFAULT_ORIENTATION, "numTraining": len(document["training"]), **channels, **kept}


def _splits_text(dataset: Path) -> str:
    path = dataset / "splits_final.json"
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def predict(
    model: Path, images: Sequence[str], out: Path, *, folds: Sequence[str], mask: Path | None, device: str
) -> list[Path]:
    """Classify images into `out`/CASE.json; `mask` is a file for one case, or a folder of CASE.nii.gz."""
    cases = group_images(images, len(read_object(model / "plans.json")["channels"]), ENDINGS)
    if out.exists() and not out.is_dir():
        raise ConflictError(f"{out}: a file, not a folder", hint="name a folder for the results: -o DIR")
    answer = workers.call(
        RECIPE,
        {
            "kind": "predict",
            "model": str(model),
            "device": device,
            "folds": list(folds),
            "cases": [
                {
                    "name": case.name,
                    "images": [str(image) for image in case.images],
                    "mask": _mask(mask, case.name, alone=len(cases) == 1),
                    "output": str(out / f"{case.name}.json"),
                }
                for case in cases
            ],
        },
    )
    return [Path(path) for path in answer["files"]]


def _mask(mask: Path | None, case: str, *, alone: bool) -> str | None:
    if mask is None:
        return None
    if mask.is_dir():
        found = [mask / f"{case}{ending}" for ending in ENDINGS if (mask / f"{case}{ending}").is_file()]
        if not found:
            raise NotFoundError(f"{mask}: no mask of case {case}", hint=f"add {case}.nii.gz")
        return str(found[0])
    if not alone:
        raise MregError(f"{mask}: one mask for several images", hint="name a folder that holds CASE.nii.gz")
    return str(mask)


def evaluate(
    model: Path, dataset: Path, *, split: str, folds: Sequence[str], device: str, draw: bool = False
) -> dict[str, Any]:
    """Return the content of evaluation.json; of split val what the run's own validation found.

    With `draw` the figures of test cases go into the folder `FIGURES` of the model.
    """
    figures = model / FIGURES if draw and split == "test" else None
    document = _validation(model) if split == "val" else _judge(model, dataset, split, folds, device, figures)
    return {
        "dataset": dataset.resolve().name,
        "split": split,
        "checkpoint": FINAL,
        "folds": [int(fold) if str(fold).isdecimal() else fold for fold in document["folds"]],
        "half": False,
        "cases": document["cases"],
        "labels": document["labels"],
        "mean": {name: {key: label[key] for key in MEASURES} for name, label in document["labels"].items()},
    }


def chosen_split(dataset: Path, split: str | None) -> str:
    """Return the split to judge: that which was asked for, else test where its cases have classes, else val."""
    if split:
        return split
    tests = read_object(dataset / "dataset.json").get("test", [])
    return "test" if any(isinstance(case, dict) and len(case) > 1 for case in tests) else "val"


def _validation(model: Path) -> dict[str, Any]:
    path = model / VALIDATION
    if not path.is_file():
        raise NotFoundError(f"{path}: no such file", hint="mreg train writes it; of a released model: --split test")
    return read_object(path)


def _judge(
    model: Path, dataset: Path, split: str, folds: Sequence[str], device: str, figures: Path | None
) -> dict[str, Any]:
    return workers.call(
        RECIPE,
        {
            "kind": "evaluate",
            "model": str(model),
            "device": device,
            "folds": list(folds),
            "dataset": str(dataset),
            "part": PARTS[split],
            "figures": str(figures) if figures else None,
        },
    )
