"""Models of cord-cropped images: `mreg data crop`, `mreg train --as nnunet`, and where the cord is in a prediction.

The images are cropped before nnU-Net sees them, as the Spinal Cord Toolbox does it for models with crop_metadata.json.
"""

from __future__ import annotations

import json
import os
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from registry import lesion, margins, output, planning, workers
from registry.case_files import CORDS
from registry.dataset import require_free_number
from registry.errors import ConflictError, MregError, NotFoundError
from registry.files import alone, read_object
from registry.model_toml import Repo, TrainSection
from trainers.catalog import RECIPES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from registry.margins import Margins

RECIPE = "nnunet"
FOLDER = "cropped"  # below a repo's data
# What [train] of recipe lesion says about where the cord is; the other settings of --set are those of recipe nnunet.
GEOMETRY = ("pads_mm", "cord_label", "cord_model")
SHARED = ("folds", "device", "seed", "checkpoint_minutes", "trackers")  # mean the same to both recipes
MOST_NAMED = 5


def crop_dataset(
    source: Path,
    destination: Path,
    *,
    number: int,
    name: str = "",
    pads_mm: tuple[float, ...] = margins.DEFAULT_MM,
    cord_label: str = "sc",
    cord: Path | None = None,
    cord_model: str | None = None,
    detector: bool = False,
    registry: str | None = None,
) -> Path:
    """Make the cord-cropped dataset of a raw one; return DESTINATION/DatasetNNN_Name.

    Where the cord is, say its label, masks (`cord`: a folder of CASE.nii.gz), a model of a registry, or the detector
    that SCT itself uses. A second call with the same inputs changes nothing.
    """
    if sum((cord is not None, cord_model is not None, detector)) > 1:
        raise MregError("--cord, --cord-model and --detector name the cord twice", hint="give one of them")
    document = planning.read_dataset_json(source.resolve())
    target = destination / f"Dataset{number:03d}_{name or source.resolve().name.partition('_')[2]}"
    if target.resolve() == source.resolve():
        raise ConflictError(f"{target}: is the dataset itself", hint="another --dataset-id or folder")
    destination.mkdir(parents=True, exist_ok=True)
    digest = planning.dataset_hash(source, destination / ".hashes" / f"{source.resolve().name}.json")
    said = [digest, *(f"{pad:g}" for pad in pads_mm), cord_label, str(cord), str(cord_model), str(detector)]
    made_from = {"kind": "cord-crop", "sha256": planning.short_digest(*said)}
    with alone(destination):
        if target.exists():
            there = read_object(target / "dataset.json").get("source")
            if there != made_from:
                raise ConflictError(f"{target}: exists with other content", hint="another --dataset-id or --name")
            output.say(f"{target}: already cropped")
            return target
        require_free_number(destination, number)
        document |= {"name": target.name.partition("_")[2], "source": made_from}
        with tempfile.TemporaryDirectory(prefix="mreg-cords-") as work:
            if not (cord or cord_model or detector):
                cord = _beside(source, document, cord_label)
            found = _cords(source, document, cord, cord_model, "auto", Path(work), registry)
            _crop(source, target, document, pads_mm, cord_label, found, cord_model, detector=detector)
    return target


def as_nnunet(repo: Repo, overrides: dict[str, Any]) -> tuple[Repo, dict[str, Any]]:
    """Return the repo as if its recipe were nnunet and its data cropped around the cords, and the settings left.

    `[train.nnunet]` and the settings that mean the same to both recipes count. The dataset is cropped once and kept.
    """
    if repo.toml.train.recipe != lesion.NAME:
        raise MregError(
            f"--as {RECIPE} is for recipe {lesion.NAME}, and model.toml says {repo.toml.train.recipe}",
            hint="of other models: mreg data crop, then recipe nnunet on the cropped dataset",
        )
    about = {key: value for key, value in overrides.items() if key in GEOMETRY}
    settings = planning.resolve_settings(RECIPES[lesion.NAME].settings, repo.toml.train.settings, about)
    dataset = repo.dataset.resolve()
    if not (dataset / margins.FILE).is_file():  # else somebody has cropped it
        dataset = _cropped(repo, dataset, settings)
    shared = {key: value for key, value in repo.toml.train.settings.items() if key in SHARED}
    written = json.dumps({"recipe": RECIPE, **shared, **settings["nnunet"]})
    section = TrainSection.model_validate_json(written, strict=True)
    data = repo.toml.data.model_copy(update={"dataset": os.path.relpath(dataset, repo.root.resolve())})
    toml = repo.toml.model_copy(update={"data": data, "train": section})
    return Repo(repo.root, toml), {key: value for key, value in overrides.items() if key not in GEOMETRY}


def _cropped(repo: Repo, dataset: Path, settings: dict[str, Any]) -> Path:
    """Return the cropped dataset of a repo's data, made where it is missing; its folder's name stands for all of it."""
    document = planning.read_dataset_json(dataset)
    digest = planning.hash_dataset(repo, dataset)
    said = [digest, *(str(settings[key]) for key in GEOMETRY)]
    folder = repo.data / FOLDER / planning.short_digest(*said)
    target: Path = folder / dataset.name
    if target.is_dir():
        return target
    planning.verify_once(dataset, folder)
    model = settings["cord_model"] or None
    cord = None if model else _beside(dataset, document, settings["cord_label"])
    found = _cords(dataset, document, cord, model, settings["device"], folder / "cords", None)
    document |= {"source": {"kind": "cord-crop", "sha256": digest}}
    _crop(dataset, target, document, settings["pads_mm"], settings["cord_label"], found, model, detector=False)
    return target


def _beside(dataset: Path, document: dict[str, Any], cord_label: str) -> Path | None:
    """Return the folder of cords that a dataset without a label for them has."""
    folder = dataset / CORDS
    return folder if cord_label not in document["labels"] and folder.is_dir() else None


def _cords(
    dataset: Path,
    document: dict[str, Any],
    cord: Path | None,
    cord_model: str | None,
    device: str,
    work: Path,
    registry: str | None,
) -> dict[str, str]:
    """Return the cord masks that do not come from a label of the dataset: case → file."""
    ending = document["file_ending"]
    images = sorted(path for part in ("Tr", "Ts") for path in (dataset / f"images{part}").glob(f"[!.]*_0000{ending}"))
    names = {image: image.name.removesuffix(f"_0000{ending}") for image in images}
    if cord is not None:
        if not cord.is_dir():
            raise NotFoundError(f"{cord}: no such folder", hint="name a folder of cord masks CASE.nii.gz")
        return {name: _mask_file(cord, name, alone=False) for name in names.values()}
    if cord_model is None:
        return {}
    missing = [image for image in images if not (work / f"{names[image]}.nii.gz").is_file()]
    if missing:
        with output.stage(f"find the cords with {cord_model}"):
            lesion.find_cords(cord_model, missing, work, device, registry)
    return {name: str(work / f"{name}.nii.gz") for name in names.values()}


def _crop(
    source: Path,
    target: Path,
    document: dict[str, Any],
    pads_mm: tuple[float, ...],
    cord_label: str,
    cords: Mapping[str, str],
    cord_model: str | None,
    *,
    detector: bool,
) -> None:
    """Let the worker write the cropped dataset, and tell what was lost."""
    about: dict[str, str] = {"crop_source": margins.FROM_DETECTOR}
    values = None
    if cord_model:
        about = {"crop_source": margins.FROM_MODEL, "cord_model": cord_model}
    elif cords:
        about = {"crop_source": margins.FROM_MASKS}
    elif not detector:
        values = cord_values(document, cord_label, source / "dataset.json")
        about = {"crop_source": margins.FROM_LABEL, "cord_label": cord_label}
    job = {
        "kind": "crop", "dataset": str(source.resolve()), "target": str(target.resolve()), "dataset_json": document,
        "pads": dict(zip(margins.FACES, pads_mm, strict=True)), "cord_values": values, "cords": dict(cords),
        "detector": detector, "about": about,
    }  # fmt: skip
    lost = workers.call(RECIPE, job)["lost"]
    if lost:
        named = ", ".join(sorted(lost)[:MOST_NAMED]) + (" …" if len(lost) > MOST_NAMED else "")
        output.warn(
            f"{len(lost)} cases have labels outside of their boxes: {named}; {target / 'crops.json'} says how far"
        )


def cord_values(document: dict[str, Any], cord_label: str, path: Path) -> list[int]:
    """Return the values of the cord in label maps; raise `MregError` where dataset.json has no such label."""
    labels = document["labels"]
    if cord_label not in labels:
        raise MregError(
            f"{path}: no label {cord_label!r}; there are: {', '.join(labels)}",
            hint="--cord-label NAME (in a repo --set cord_label=NAME), or masks, or a model that finds the cord",
        )
    value = labels[cord_label]
    return [int(item) for item in (value if isinstance(value, list) else [value])]


def call(
    job: dict[str, Any],
    found: Margins,
    *,
    cord: Path | None = None,
    cord_model: str | None = None,
    registry: str | None = None,
    dataset: Path | None = None,
) -> dict[str, Any]:
    """Run a prediction job in whose images the cord has to be found first.

    Masks are given, or a model finds the cord (the one of the training, if it was a model), or the `dataset` of an
    evaluation has a label for it or masks in its folder `cords`; else the worker asks SCT's detector.
    """
    if dataset is not None and not (cord or cord_model or found.cord_model):
        cord = _beside(dataset, read_object(dataset / "dataset.json"), found.cord_label)
    with _with_cords(job["cases"], found, cord, cord_model, job["device"], registry, dataset) as entries:
        return workers.call(RECIPE, {**job, "pads": found.pads_mm, "cases": entries})


@contextmanager
def _with_cords(
    entries: list[dict[str, Any]],
    found: Margins,
    cord: Path | None,
    cord_model: str | None,
    device: str,
    registry: str | None,
    dataset: Path | None,
) -> Iterator[list[dict[str, Any]]]:
    if cord is not None and cord_model is not None:
        raise MregError("--cord and --cord-model name the cord twice", hint="leave one of them out")
    model = cord_model or found.cord_model
    if cord is not None:
        single = len(entries) == 1
        yield [{**entry, "cord": _mask_file(cord, entry["name"], alone=single)} for entry in entries]
    elif model:
        with tempfile.TemporaryDirectory(prefix="mreg-cords-") as work:
            lesion.find_cords(model, [Path(entry["images"][0]) for entry in entries], Path(work), device, registry)
            yield [{**entry, "cord": str(Path(work, f"{entry['name']}.nii.gz"))} for entry in entries]
    elif dataset is not None and found.cord_label:
        values = cord_values(read_object(dataset / "dataset.json"), found.cord_label, dataset / "dataset.json")
        yield [{**entry, "cord_values": values} for entry in entries]
    else:
        yield entries


def _mask_file(cord: Path, case: str, *, alone: bool) -> str:
    """Return the file of a case's cord mask."""
    file = lesion.cord_file(cord, case, alone=alone)
    if file.endswith(".csv"):
        raise MregError(f"{file}: a centreline has no width, and a box needs one", hint="give cord masks")
    return file
