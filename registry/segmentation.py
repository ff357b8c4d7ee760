"""Recipe `nnunet`: what `mreg train` does where nnU-Net trains a segmentation."""

from __future__ import annotations

import re
import shutil
from importlib import metadata
from typing import TYPE_CHECKING, Any

from registry import margins, planning
from registry.files import sha256
from registry.planning import Planned
from registry.trainer_code import FILE_NAME

if TYPE_CHECKING:
    from pathlib import Path

    from registry.model_toml import Repo
    from trainers.catalog import Recipe

# Packages whose version changes the preprocessed voxels (batchgenerators 0.25.5 changed its label resampling).
SHAPES_THE_DATA = ("nnunetv2", "batchgenerators", "acvl-utils")


def plan(repo: Repo, recipe: Recipe, overrides: dict[str, Any]) -> Planned:
    """Check what model.toml says, changed by `overrides`, against the data; nothing is trained."""
    settings = planning.resolve_settings(recipe.settings, repo.toml.train.settings, overrides)
    dataset = repo.dataset.resolve()
    dataset_json = planning.read_dataset_json(dataset)
    trainer_file = _trainer_file(repo, settings["trainer"])
    planning.keep_contract(repo, dataset_json)
    digest = planning.hash_dataset(repo, dataset)
    source = sha256(trainer_file) if trainer_file else ""
    name = f"{settings['configuration']}-{planning.settings_digest(settings, digest, source)}"
    return Planned(
        recipe=recipe, settings=settings, dataset=dataset, dataset_json=dataset_json, digest=digest,
        trainer_file=trainer_file, run=repo.runs / name,
    )  # fmt: skip


def cache(repo: Repo, planned: Planned) -> Path:
    """Return the folder of what is computed from the data before a training."""
    digest = planning.short_digest(planned.digest, *_versions(), planned.settings["planner"])
    return repo.data / "preprocessed" / f"{planned.dataset.name}-{digest}"


def job(repo: Repo, planned: Planned, *, gpus: int, max_minutes: float | None) -> dict[str, Any]:
    """Return the worker's job of a training."""
    settings, document = planned.settings, planning.without_case_lists(planned.dataset_json)
    return {
        **planning.job(planned, cache(repo, planned), gpus=gpus, max_minutes=max_minutes),
        "dataset_json": document,
        "splits": planning.splits_of(planned.dataset),
        "trainer_file": str(planned.trainer_file) if planned.trainer_file else None,
        "config": planning.config(
            repo, planned, trainer=settings["trainer"], plans=planned.recipe.plans_name(settings),
            configuration=settings["configuration"], facts=planning.facts(document),
        ),
    }  # fmt: skip


def keep_with(planned: Planned) -> None:
    """Keep with a run what it was trained with: the trainer's code, and the margins of a cropped dataset."""
    if planned.trainer_file:
        shutil.copyfile(planned.trainer_file, planned.run / FILE_NAME)
    margins.keep(planned.dataset, planned.run)


def _trainer_file(repo: Repo, trainer: str) -> Path | None:
    """Return the repo's trainer_class.py if it defines the trainer that was asked for."""
    path = repo.root / FILE_NAME
    if path.is_file() and re.search(rf"^class {re.escape(trainer)}\(", path.read_text(encoding="utf-8"), re.MULTILINE):
        return path
    return None


def _versions() -> list[str]:
    versions = []
    for package in SHAPES_THE_DATA:
        try:
            versions.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            versions.append(package)
    return versions
