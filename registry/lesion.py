"""Recipe `lesion`: what `mreg train`, `predict` and `evaluate` do where a net looks only at what lies around the cord.

Where the cord is, is said by a mask, a centreline or another model: a cord model's label maps become cord masks here,
so that the recipe's worker sees files only.
"""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from registry import output, planning, workers
from registry.case_files import CORDS
from registry.errors import IntegrityError, MregError, NotFoundError
from registry.files import read_object
from registry.lesion_model import CONFIGURATION, PLANS, RECIPE, TRAINER, is_lesion_model

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from registry.model_toml import Repo
    from registry.planning import Planned
    from trainers.catalog import Recipe

NAME = RECIPE
FIGURE = "predictions.png"  # of an evaluation, in the run
CORD_ENDINGS = (".nii.gz", ".nii", ".csv")


def plan(repo: Repo, recipe: Recipe, overrides: dict[str, Any]) -> Planned:
    """Check what model.toml says, changed by `overrides`, against the data; nothing is trained."""
    settings = planning.resolve_settings(recipe.settings, repo.toml.train.settings, overrides)
    dataset = repo.dataset.resolve()
    dataset_json = planning.read_dataset_json(dataset)
    label, path = settings["lesion_label"], dataset / "dataset.json"
    if label not in dataset_json["labels"]:
        names = ", ".join(dataset_json["labels"])
        raise MregError(f"{path}: no label {label!r}; there are: {names}", hint="--set lesion_label=NAME")
    finds_cords = settings["cord_model"] or settings["centreline"] == "sct" or settings["crop"] == "none"
    finds_cords = finds_cords or (dataset / CORDS).is_dir()
    if settings["cord_label"] not in dataset_json["labels"] and not finds_cords:
        raise MregError(
            f"{path}: no label {settings['cord_label']!r}, and the window follows the cord",
            hint="--set cord_label=NAME, or a model that finds the cord: --set cord_model=NAME@TAG",
        )
    planning.keep_contract(repo, dataset_json)
    digest = planning.hash_dataset(repo, dataset)
    # What does not count are the other recipe's settings: mreg train --as nnunet.
    name = planning.settings_digest(settings, digest, aside=("nnunet",))
    return planning.Planned(
        recipe=recipe, settings=settings, dataset=dataset, dataset_json=dataset_json, digest=digest,
        trainer_file=None, run=repo.runs / f"{NAME}-{name}",
    )  # fmt: skip


def cache(repo: Repo, planned: Planned) -> Path:
    """Return the folder of what is computed from the data before a training."""
    return repo.data / "preprocessed" / f"{planned.dataset.name}-{NAME}-{planning.short_digest(planned.digest)}"


def job(repo: Repo, planned: Planned, *, gpus: int, max_minutes: float | None) -> dict[str, Any]:
    """Return the worker's job of a training."""
    if gpus > 1:
        raise MregError(f"--gpus {gpus}: recipe {NAME} trains on one GPU", hint="train the folds side by side: --fold")
    document = planning.without_case_lists(planned.dataset_json)
    return {
        **planning.job(planned, cache(repo, planned), gpus=gpus, max_minutes=max_minutes),
        "dataset_json": document,
        "splits": planning.splits_of(planned.dataset),
        "cords": _cords_of_dataset(repo, planned),
        "config": planning.config(
            repo, planned, trainer=TRAINER, plans=PLANS, configuration=CONFIGURATION, facts=planning.facts(document)
        ),
    }


def _cords_of_dataset(repo: Repo, planned: Planned) -> dict[str, str]:
    """Return the cord masks that the cord model finds in the training images, those of an earlier call kept.

    Without a model: those that lie in the dataset's own folder.
    """
    model = planned.settings["cord_model"]
    if not model:
        return cords_beside(planned.dataset)
    ending = planned.dataset_json["file_ending"]
    folder = repo.data / "cords" / planning.short_digest(model, planned.digest)
    images = sorted((planned.dataset / "imagesTr").glob(f"[!.]*_0000{ending}"))
    names = {image: image.name.removesuffix(f"_0000{ending}") for image in images}
    missing = [image for image in images if not (folder / f"{names[image]}.nii.gz").is_file()]
    if missing:
        with output.stage(f"find the cords with {model}"):
            find_cords(model, missing, folder, planned.settings["device"])
    return {name: str(folder / f"{name}.nii.gz") for name in names.values()}


def find_cords(model: str, images: Sequence[Path], folder: Path, device: str, registry: str | None = None) -> None:
    """Write the cord masks that a model of another repo finds, `folder`/CASE.nii.gz."""
    from registry import inference

    target = inference.find_target(model, registry)
    if is_lesion_model(target.folder):
        raise MregError(f"{model}: a lesion model, not one that finds the cord", hint="name a cord segmentation")
    inference.predict(model, [str(image) for image in images], folder, device=device, registry=registry)


def call(
    model: Path,
    job: dict[str, Any],
    *,
    cord: Path | None = None,
    cord_model: str | None = None,
    registry: str | None = None,
) -> dict[str, Any]:
    """Run a prediction job whose cases may still lack their cords."""
    places = _with_cords(model, job["cases"], cord, cord_model, job["device"], registry)
    with places as entries:
        return workers.call(NAME, {**job, "cases": entries})


@contextmanager
def _with_cords(
    model: Path,
    entries: list[dict[str, Any]],
    cord: Path | None,
    cord_model: str | None,
    device: str,
    registry: str | None,
) -> Iterator[list[dict[str, Any]]]:
    """Add to a prediction's cases where their cords are: given files, else what a model finds, else nothing.

    `cord` is a file for one case, or a folder of CASE.nii.gz or CASE.csv; a model that was trained on the cords of
    another model asks the same one by itself.
    """
    if cord is not None and cord_model is not None:
        raise MregError("--cord and --cord-model name the cord twice", hint="leave one of them out")
    settings = _settings(model)
    found = cord_model or settings["cord_model"]
    if cord is not None:
        yield [{**entry, "cord": cord_file(cord, entry["name"], alone=len(entries) == 1)} for entry in entries]
    elif found and settings["crop"] != "none":
        with tempfile.TemporaryDirectory(prefix="mreg-cords-") as work:
            find_cords(found, [Path(entry["images"][0]) for entry in entries], Path(work), device, registry)
            yield [{**entry, "cord": str(Path(work, f"{entry['name']}.nii.gz"))} for entry in entries]
    else:
        yield entries


def _settings(model: Path) -> dict[str, Any]:
    """Return the settings that a model was trained with; raise `IntegrityError` where its plans do not say them."""
    settings = read_object(model / "plans.json").get("settings")
    needed = ("cord_model", "crop", "lesion_label", "cord_label")
    if not isinstance(settings, dict) or not all(isinstance(settings.get(key), str) for key in needed):
        raise IntegrityError(f"{model / 'plans.json'}: no settings of recipe {NAME}", hint="fetch or train it again")
    return settings


def with_labels(model: Path, dataset: Path, job: dict[str, Any]) -> dict[str, Any]:
    """Add to an evaluation's cases which values of their label maps are lesion and cord."""
    settings = _settings(model)
    labels = read_object(dataset / "dataset.json")["labels"]
    values = {
        key: _values(labels[settings[f"{key}_label"]])
        for key in ("lesion", "cord")
        if settings[f"{key}_label"] in labels
    }
    about = {f"{key}_values": value for key, value in values.items()}
    beside = cords_beside(dataset)
    cords = {name: {"cord": file} for name, file in beside.items()}
    return {**job, "cases": [{**entry, **about, **cords.get(entry["name"], {})} for entry in job["cases"]]}


def cords_beside(dataset: Path) -> dict[str, str]:
    """Return the cords in a dataset's own folder, masks or centrelines that are no label: case → file."""
    files = sorted((dataset / CORDS).glob("[!.]*"))
    found = ((file, ending) for file in files for ending in CORD_ENDINGS if file.name.endswith(ending))
    return {file.name.removesuffix(ending): str(file) for file, ending in found}


def _values(label: Any) -> list[int]:
    return [int(value) for value in (label if isinstance(label, list) else [label])]


def cord_file(cord: Path, case: str, *, alone: bool) -> str:
    """Return the file of a case's cord: `cord` itself, or CASE.nii.gz or CASE.csv in it."""
    if cord.is_dir():
        found = [cord / f"{case}{ending}" for ending in CORD_ENDINGS if (cord / f"{case}{ending}").is_file()]
        if not found:
            raise NotFoundError(f"{cord}: no cord of case {case}", hint=f"add {case}.nii.gz or {case}.csv")
        return str(found[0])
    if not cord.is_file():
        raise NotFoundError(f"{cord}: no such file")
    if not alone:
        raise MregError(f"{cord}: one cord for several images", hint="name a folder that holds CASE.nii.gz")
    return str(cord)
