"""`mreg train`: from a model's repo to a run folder, computed by the recipe's worker."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from registry import (
    classification,
    classifier,
    encoder_card,
    lesion,
    output,
    pretraining,
    segmentation,
    starts,
    workers,
)
from registry.errors import MregError, StoppedError
from registry.planning import verify_once
from registry.runs import Run, is_run, read_run
from trainers.catalog import RECIPES

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

    from registry.model_toml import Repo
    from registry.planning import Planned
    from registry.starts import Start

# Recipe → its module, which has `plan`, `cache` and `job`.
MODULES: dict[str, ModuleType] = {
    "nnunet": segmentation,
    classifier.RECIPE: classification,
    pretraining.NAME: pretraining,
    lesion.NAME: lesion,
}


def plan(repo: Repo, overrides: dict[str, Any], *, registry: str | None = None, start: Start | None = None) -> Planned:
    """Check what model.toml says, changed by `overrides`, against the data; nothing is trained.

    The model that the training starts from is looked for in `registry`, unless `start` is what was found earlier.
    """
    start = start or starts.find_start(repo, overrides, registry)
    if start is not None:
        overrides = {**overrides, starts.KEY: start.checkpoint_sha256}  # the bytes make the run, not their place
    recipe = RECIPES[repo.toml.train.recipe]
    planned: Planned = MODULES[recipe.name].plan(repo, recipe, overrides)
    if planned.settings.get("from_scratch") and start is None:
        raise MregError("from_scratch is for start_from", hint="mreg train --from RUN --from-scratch")
    return replace(planned, start=start)


def train(
    repo: Repo,
    overrides: dict[str, Any],
    *,
    gpus: int = 1,
    restart: bool = False,
    max_minutes: float | None = None,
    validation_only: bool = False,
    registry: str | None = None,
    start: Start | None = None,
) -> tuple[Run, dict[str, list[Any]]]:
    """Train what model.toml says, changed by `overrides`; continue a run that was interrupted.

    Returns the run and which folds were trained now (`trained`) or before (`done_before`). `validation_only` trains
    nothing and validates the folds that are finished once more. `registry` and `start` as in `plan`. Raises
    `StoppedError` when a signal or `max_minutes` ended it before its time, with everything saved.
    """
    since = time.monotonic()
    planned = plan(repo, overrides, registry=registry, start=start)
    module = MODULES[planned.recipe.name]
    if validation_only and module is not classification:
        hint = "mreg evaluate RUN DATASET --split val"
        raise MregError(f"--validation-only is for recipe {classifier.RECIPE}", hint=hint)
    verify_once(planned.dataset, module.cache(repo, planned))
    if restart:
        set_aside(planned.run)
    planned.settings["folds"] = all_folds(planned.run, planned.settings["folds"])
    job = module.job(repo, planned, gpus=gpus, max_minutes=max_minutes)
    job["since"] = since  # what max_minutes counts from: hashing and verifying the data take of them, too
    job["validation_only"] = validation_only
    if planned.start is not None:
        job["config"]["start"] = planned.start.as_json()
    answer = workers.call(planned.recipe.name, job)
    told = answer.pop("told", ())
    if reason := answer.pop("stopped"):
        raise StoppedError(
            f"{planned.run}: stopped by {reason}; everything is saved",
            hint="run the same command again: it continues with the next step",
            signals=tuple(told),
        )
    run = read_run(planned.run)
    if module is segmentation:
        segmentation.keep_with(planned)
    elif module is pretraining:
        encoder_card.write(repo.root, run)
    return run, answer


def parse_assignment(text: str) -> tuple[str, Any]:
    """Split `KEY=VALUE`; the value is read as TOML, and as text where it is not.

    >>> parse_assignment("patch_size=[48, 48]")
    ('patch_size', [48, 48])
    >>> parse_assignment("configuration=2d")
    ('configuration', '2d')
    """
    import tomllib

    key, equals, value = text.partition("=")
    key = key.strip()
    if not equals or not re.fullmatch(r"(slurm\.)?\w+", key):
        raise MregError(f"--set {text!r} is not KEY=VALUE", hint="for example --set epochs=100")
    try:
        return key, tomllib.loads(f"value = {value}")["value"]
    except (ValueError, RecursionError):
        return key, value.strip()


def set_aside(run_folder: Path) -> None:
    """Rename an existing run: starting anew must not cost what a mistaken flag would destroy."""
    if run_folder.exists():
        number = 1
        while (aside := run_folder.with_name(f"{run_folder.name}.old{number}")).exists():
            number += 1
        run_folder.rename(aside)
        output.say(f"the earlier run is kept as {aside}")


def all_folds(run_folder: Path, folds: list[Any]) -> list[Any]:
    """Add the folds that the run has already been asked for."""
    if not is_run(run_folder):
        return folds
    before = read_run(run_folder).config["settings"]["folds"]
    return sorted({*before, *folds}, key=str) if "all" not in {*before, *folds} else folds
