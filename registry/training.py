"""`mreg train`: from a model's repo to a run folder, computed by the recipe's worker."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from importlib import metadata
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from registry import classification, encoder_card, lesion, output, pretraining, starts, workers
from registry.classifier import RECIPE
from registry.errors import ConflictError, IntegrityError, MregError, NotFoundError, StoppedError
from registry.files import json_text, read_json, sha256, write_json
from registry.margins import keep as keep_margins
from registry.model_toml import FILE_NAME, Repo, describe
from registry.runs import Run, is_run, read_run
from trainers.catalog import RECIPES

if TYPE_CHECKING:
    from pathlib import Path

    from registry.starts import Start
    from trainers.catalog import Recipe

# Settings that change where or how fast a training runs, not what comes out: they do not make it another run.
NOT_PART_OF_THE_RESULT = {"folds", "device", "workers", "checkpoint_minutes", "compile", "trackers", "sheets", "shown"}
# Packages whose version changes the preprocessed voxels (batchgenerators 0.25.5 changed its label resampling).
SHAPES_THE_DATA = ("nnunetv2", "batchgenerators", "acvl-utils")
DATA_CONTRACT = ("channel_names", "labels", "regions_class_order", "image_orientation")
CASE_LISTS = ("training", "test", "dataset")


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A training before anything is computed: checked settings and data, and the folder of its result."""

    recipe: Recipe
    settings: dict[str, Any]
    dataset: Path
    dataset_json: dict[str, Any]
    digest: str  # of the dataset
    trainer_file: Path | None
    run: Path
    start: Start | None = None  # checkpoint that it starts from, and the release that it came from


def plan(repo: Repo, overrides: dict[str, Any], *, registry: str | None = None, start: Start | None = None) -> Planned:
    """Check what model.toml says, changed by `overrides`, against the data; nothing is trained.

    The model that the training starts from is looked for in `registry`, unless `start` is what was found earlier.
    """
    start = start or starts.find_start(repo, overrides, registry)
    if start is not None:
        overrides = {**overrides, starts.KEY: start.checkpoint_sha256}  # the bytes make the run, not their place
    planned = _plan(repo, overrides)
    if planned.settings.get("from_scratch") and start is None:
        raise MregError("from_scratch is for start_from", hint="mreg train --from RUN --from-scratch")
    return replace(planned, start=start)


def _plan(repo: Repo, overrides: dict[str, Any]) -> Planned:
    recipe = RECIPES[repo.toml.train.recipe]
    if recipe.name == RECIPE:
        return classification.plan(repo, recipe, overrides)
    if recipe.name == pretraining.NAME:
        return pretraining.plan(repo, recipe, overrides)
    if recipe.name == lesion.NAME:
        return lesion.plan(repo, recipe, overrides)
    settings = resolve_settings(recipe.settings, repo.toml.train.settings, overrides)
    dataset = repo.dataset.resolve()
    dataset_json = read_dataset_json(dataset)
    trainer_file = _trainer_file(repo, settings["trainer"])
    keep_contract(repo, dataset_json)
    with output.stage("hash the dataset"):
        digest = dataset_hash(dataset, repo.data / "hashes" / f"{dataset.name}.json")
    return Planned(
        recipe=recipe, settings=settings, dataset=dataset, dataset_json=dataset_json, digest=digest,
        trainer_file=trainer_file, run=repo.runs / _run_name(settings, digest, trainer_file),
    )  # fmt: skip


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
    planned = plan(repo, overrides, registry=registry, start=start)
    is_classifier = planned.recipe.name == RECIPE
    if validation_only and not is_classifier:
        raise MregError(f"--validation-only is for recipe {RECIPE}", hint="mreg evaluate RUN DATASET --split val")
    verify_once(planned.dataset, _cache(repo, planned))
    if restart:
        set_aside(planned.run)
    planned.settings["folds"] = all_folds(planned.run, planned.settings["folds"])
    if is_classifier:
        job = classification.job(repo, planned, gpus=gpus, max_minutes=max_minutes, validation_only=validation_only)
    elif planned.recipe.name == pretraining.NAME:
        job = pretraining.job(repo, planned, gpus=gpus, max_minutes=max_minutes)
    elif planned.recipe.name == lesion.NAME:
        job = lesion.job(repo, planned, gpus=gpus, max_minutes=max_minutes)
    else:
        job = _job(repo, planned, gpus=gpus, max_minutes=max_minutes)
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
    if planned.trainer_file:
        shutil.copyfile(planned.trainer_file, planned.run / "trainer_class.py")
    if planned.recipe.name == "nnunet":
        keep_margins(planned.dataset, planned.run)
    run = read_run(planned.run)
    if planned.recipe.name == pretraining.NAME:
        encoder_card.write(repo.root, run)
    return run, answer


def _cache(repo: Repo, planned: Planned) -> Path:
    """Return the folder of what is computed from the data before a training."""
    if planned.recipe.name == pretraining.NAME:
        return pretraining.cache(repo, planned)
    if planned.recipe.name == lesion.NAME:
        return lesion.cache(repo, planned)
    shapes = () if planned.recipe.name == RECIPE else (*_versions(), planned.settings["planner"])
    return repo.data / "preprocessed" / f"{planned.dataset.name}-{short_digest(planned.digest, *shapes)}"


def _job(repo: Repo, planned: Planned, *, gpus: int, max_minutes: float | None) -> dict[str, Any]:
    """Return the worker's job of a training with nnU-Net."""
    settings, dataset, dataset_json = planned.settings, planned.dataset, without_case_lists(planned.dataset_json)
    return {
        "kind": "train",
        "dataset": str(dataset),
        "dataset_json": dataset_json,
        "run": str(planned.run),
        "cache": str(_cache(repo, planned)),
        "settings": settings,
        "splits": splits_of(dataset),
        "trainer_file": str(planned.trainer_file) if planned.trainer_file else None,
        "pretrained": str(planned.start.checkpoint) if planned.start else None,
        "gpus": gpus,
        "max_minutes": max_minutes,
        "config": {
            "recipe": planned.recipe.name,
            "trainer": settings["trainer"],
            "plans": planned.recipe.plans_name(settings),
            "configuration": settings["configuration"],
            "settings": settings,
            "dataset": {
                "name": dataset.name,
                "id": int(dataset.name[7:10]),
                "path": os.path.relpath(repo.dataset, repo.root),
                "hash": planned.digest,
                "image_orientation": dataset_json["image_orientation"],
                "num_training": dataset_json["numTraining"],
            },
            "repo": repo.name,
        },
    }


def resolve_settings(model: type[BaseModel], written: dict[str, Any], overrides: dict[str, Any]) -> dict[str, Any]:
    """Return the recipe's settings with its defaults; the flags win over model.toml."""
    try:
        return model.model_validate({**written, **overrides}).model_dump(mode="json")
    except ValidationError as error:
        known = ", ".join(model.model_fields)
        said = describe(error, {"": model.model_fields})
        raise MregError(f"[train] of {FILE_NAME} with --set: {said}", hint=f"settings are: {known}") from error


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
    except tomllib.TOMLDecodeError:
        return key, value.strip()


def read_dataset_json(dataset: Path) -> dict[str, Any]:
    """Read the dataset.json of a raw dataset, with what a training must know."""
    if not dataset.is_dir():
        raise NotFoundError(f"{dataset}: no such dataset", hint="mreg data import, then [data] dataset in model.toml")
    if not re.fullmatch(r"Dataset\d{3}_\w+", dataset.name):
        raise MregError(f"{dataset}: nnU-Net wants a folder named DatasetNNN_Name", hint="rename it")
    document = read_json(dataset / "dataset.json")
    missing = [key for key in ("labels", "channel_names", "numTraining", "file_ending") if key not in document]
    if missing:
        raise IntegrityError(f"{dataset / 'dataset.json'}: keys are missing: {', '.join(missing)}")
    if not isinstance(document.get("image_orientation"), str):
        raise IntegrityError(
            f"{dataset / 'dataset.json'}: no image_orientation",
            hint='add the orientation of the images in SCT\'s letters, for example "image_orientation": "RPI"',
        )
    return dict(document)


def keep_contract(repo: Repo, dataset_json: dict[str, Any]) -> None:
    """Write the repo's dataset.json the first time; later refuse data that contradict it."""
    contract = {key: dataset_json[key] for key in DATA_CONTRACT if key in dataset_json}
    path = repo.root / "dataset.json"
    if not path.exists():
        write_json(path, {**contract, "file_ending": dataset_json["file_ending"]})
        return
    agreed = read_json(path)
    for key in DATA_CONTRACT:
        if agreed.get(key) != dataset_json.get(key):
            raise ConflictError(
                f"{repo.dataset / 'dataset.json'}: {key} = {json.dumps(dataset_json.get(key))} contradicts the repo's "
                f"dataset.json: {json.dumps(agreed.get(key))}",
                hint="train on the data that the model is for, or change the repo's dataset.json on purpose",
            )


def _trainer_file(repo: Repo, trainer: str) -> Path | None:
    """Return the repo's trainer_class.py if it defines the trainer that was asked for."""
    path = repo.root / "trainer_class.py"
    if path.is_file() and re.search(rf"^class {re.escape(trainer)}\(", path.read_text(encoding="utf-8"), re.MULTILINE):
        return path
    return None


def dataset_hash(dataset: Path, memory: Path) -> str:
    """Return the SHA-256 of the dataset's names and bytes.

    Files whose size and time have not changed since the last call are not read again (`memory` keeps their digests).
    """
    known = read_json(memory) if memory.is_file() else {}
    names = sorted(
        path.relative_to(dataset).as_posix()
        for folder in ("imagesTr", "labelsTr", "cords")
        for path in (dataset / folder).glob("*")
        if path.is_file() and not path.name.startswith(".")
    )

    def digest(name: str) -> list[Any]:
        status = (dataset / name).stat()
        entry = known.get(name)
        if entry and entry[:2] == [status.st_size, status.st_mtime_ns]:
            return list(entry)
        return [status.st_size, status.st_mtime_ns, sha256(dataset / name)]

    with ThreadPoolExecutor() as pool:  # hashlib lets go of the interpreter
        entries = dict(zip(names, pool.map(digest, names), strict=True))
    if entries != known:
        write_json(memory, entries)
    document = without_case_lists(read_json(dataset / "dataset.json"))
    whole = hashlib.sha256(json_text(document).encode())
    for name, (_, _, sha) in entries.items():
        whole.update(f"{name} {sha}\n".encode())
    return whole.hexdigest()


def without_case_lists(document: dict[str, Any]) -> dict[str, Any]:
    """Return a dataset.json without what must not travel into checkpoints: lists of cases with paths and subjects."""
    return {key: value for key, value in document.items() if key not in CASE_LISTS}


def _versions() -> list[str]:
    versions = []
    for package in SHAPES_THE_DATA:
        try:
            versions.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            versions.append(package)
    return versions


def short_digest(*parts: str) -> str:
    """Return eight letters that stand for some texts."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:8]


def _run_name(settings: dict[str, Any], digest: str, trainer_file: Path | None) -> str:
    """Name the run after everything that its result depends on: the same command finds the same run."""
    counts = {key: value for key, value in settings.items() if key not in NOT_PART_OF_THE_RESULT}
    source = sha256(trainer_file) if trainer_file else ""
    return f"{settings['configuration']}-{short_digest(json.dumps(counts, sort_keys=True), digest, source)}"


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


def splits_of(dataset: Path) -> list[dict[str, list[str]]]:
    """Read the dataset's split by subject."""
    path = dataset / "splits_final.json"
    if path.is_file():
        return list(read_json(path))
    from registry.splits import subject_splits

    cases = sorted(p.name.partition(".")[0] for p in (dataset / "labelsTr").glob("[!.]*"))
    return subject_splits(cases)


def verify_once(dataset: Path, cache: Path) -> None:
    """Run `mreg data verify` on data that were not verified before; the cache's name stands for their content."""
    marker = cache / "verified.json"
    if marker.is_file():
        return
    from registry.dataset_verify import verify

    with output.stage("verify the dataset"):
        report = verify(dataset)
    errors = [finding for finding in report.findings if finding.level == "error"]
    if errors:
        listed = "\n".join(f"  {finding.path}: {finding.message}" for finding in errors[:20])
        raise IntegrityError(
            f"{dataset}: {len(errors)} errors in the data\n{listed}", hint=f"all of them: mreg data verify {dataset}"
        )
    write_json(marker, report.as_json())
