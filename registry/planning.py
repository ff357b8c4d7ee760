"""What the trainings of all recipes have in common before anything is computed: settings, data, and names for both."""

from __future__ import annotations

import hashlib
import json
import os
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from registry import output
from registry.errors import ConflictError, IntegrityError, MregError, NotFoundError
from registry.files import json_text, read_object, sha256, write_json
from registry.model_toml import FILE_NAME, Repo
from registry.problems import describe
from registry.splits import read_splits, subject_splits

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from registry.starts import Start
    from trainers.catalog import Recipe

# Settings that change where or how fast a training runs, not what comes out: they do not make it another run.
NOT_PART_OF_THE_RESULT = {"folds", "device", "workers", "checkpoint_minutes", "compile", "trackers", "sheets", "shown"}
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


def resolve_settings(model: type[BaseModel], written: dict[str, Any], overrides: dict[str, Any]) -> dict[str, Any]:
    """Return the recipe's settings with its defaults; the flags win over model.toml."""
    try:
        return model.model_validate({**written, **overrides}).model_dump(mode="json")
    except ValidationError as error:
        known = ", ".join(model.model_fields)
        said = describe(error, {"": model.model_fields})
        raise MregError(f"[train] of {FILE_NAME} with --set: {said}", hint=f"settings are: {known}") from error


def settings_digest(settings: Mapping[str, Any], *more: str, aside: tuple[str, ...] = ()) -> str:
    """Return eight letters for everything that a result depends on: the same command finds the same run."""
    counts = {key: value for key, value in settings.items() if key not in {*NOT_PART_OF_THE_RESULT, *aside}}
    return short_digest(json.dumps(counts, sort_keys=True), *more)


def config(
    repo: Repo, planned: Planned, *, trainer: str, plans: str, configuration: str, facts: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the config.json of the run; `facts` are those of the dataset beside its name, number, place and hash."""
    name = planned.dataset.name
    number = re.match(r"[A-Za-z]+(\d{3})_", name)
    if number is None:
        raise MregError(f"{planned.dataset}: a dataset is a folder named DatasetNNN_Name", hint="rename it")
    return {
        "recipe": planned.recipe.name,
        "trainer": trainer,
        "plans": plans,
        "configuration": configuration,
        "settings": planned.settings,
        "dataset": {
            "name": name,
            "id": int(number[1]),
            "path": os.path.relpath(repo.dataset, repo.root),
            "hash": planned.digest,
            **facts,
        },
        "repo": repo.name,
    }


def job(planned: Planned, cache: Path, *, gpus: int, max_minutes: float | None) -> dict[str, Any]:
    """Return what the worker's job of every recipe says; each adds its own."""
    return {
        "kind": "train",
        "dataset": str(planned.dataset),
        "run": str(planned.run),
        "cache": str(cache),
        "settings": planned.settings,
        "pretrained": str(planned.start.checkpoint) if planned.start else None,
        "gpus": gpus,
        "max_minutes": max_minutes,
    }


def facts(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return what config.json says of a labelled dataset's dataset.json."""
    return {"image_orientation": document["image_orientation"], "num_training": document["numTraining"]}


def read_dataset_json(dataset: Path) -> dict[str, Any]:
    """Read the dataset.json of a raw dataset, with what a training must know."""
    if not dataset.is_dir():
        raise NotFoundError(f"{dataset}: no such dataset", hint="mreg data import, then [data] dataset in model.toml")
    if not re.fullmatch(r"Dataset\d{3}_\w+", dataset.name):
        raise MregError(f"{dataset}: nnU-Net wants a folder named DatasetNNN_Name", hint="rename it")
    document = read_object(dataset / "dataset.json")
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
    agreed = read_object(path)
    for key in DATA_CONTRACT:
        if agreed.get(key) != dataset_json.get(key):
            raise ConflictError(
                f"{repo.dataset / 'dataset.json'}: {key} = {json.dumps(dataset_json.get(key))} contradicts the repo's "
                f"dataset.json: {json.dumps(agreed.get(key))}",
                hint="train on the data that the model is for, or change the repo's dataset.json on purpose",
            )


def hash_dataset(repo: Repo, dataset: Path) -> str:
    """Return the SHA-256 of a dataset; what was hashed is remembered in the repo."""
    with output.stage("hash the dataset"):
        return dataset_hash(dataset, repo.data / "hashes" / f"{dataset.name}.json")


def dataset_hash(dataset: Path, memory: Path) -> str:
    """Return the SHA-256 of the dataset's names and bytes, as `digests` finds them."""
    found = [
        path
        for folder in ("imagesTr", "labelsTr", "cords")
        for path in (dataset / folder).glob("*")
        if path.is_file() and not path.name.startswith(".")
    ]
    files = {path.relative_to(dataset).as_posix(): path for path in found}
    document = without_case_lists(read_object(dataset / "dataset.json"))
    return digest_of(json_text(document), digests(files, memory))


def digests(files: Mapping[str, Path], memory: Path) -> dict[str, str]:
    """Return the SHA-256 of each file, by its name.

    Files whose size and time have not changed since the last call are not read again (`memory` keeps their digests).
    """
    try:
        known = read_object(memory)
    except MregError:  # not there yet, or spoilt
        known = {}

    def digest(name: str) -> list[Any]:
        status = files[name].stat()
        entry = known.get(name)
        if isinstance(entry, list) and entry[:2] == [status.st_size, status.st_mtime_ns]:
            return entry
        return [status.st_size, status.st_mtime_ns, sha256(files[name])]

    names = sorted(files)
    with ThreadPoolExecutor() as pool:  # hashlib lets go of the interpreter
        entries = dict(zip(names, pool.map(digest, names), strict=True))
    if entries != known:
        write_json(memory, entries)
    return {name: str(entry[-1]) for name, entry in entries.items()}


def digest_of(text: str, files: Mapping[str, str]) -> str:
    """Return the SHA-256 of a text and of files, by name and digest."""
    whole = hashlib.sha256(text.encode())
    for name, digest in files.items():
        whole.update(f"{name} {digest}\n".encode())
    return whole.hexdigest()


def without_case_lists(document: dict[str, Any]) -> dict[str, Any]:
    """Return a dataset.json without what must not travel into checkpoints: lists of cases with paths and subjects."""
    return {key: value for key, value in document.items() if key not in CASE_LISTS}


def short_digest(*parts: str) -> str:
    """Return eight letters that stand for some texts."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:8]


def splits_of(dataset: Path) -> list[dict[str, list[str]]]:
    """Read the dataset's split by subject."""
    path = dataset / "splits_final.json"
    if path.is_file():
        return read_splits(path)
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
