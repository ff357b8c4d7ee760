"""Recipe `pretrain`: what `mreg train` does where a model is an encoder from images without labels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from registry import output, planning
from registry.errors import MregError, NotFoundError
from registry.files import json_text
from trainers.core.errors import TrainingError
from trainers.pretraining.collection import FILE, items, read_collection

if TYPE_CHECKING:
    from registry.model_toml import Repo
    from registry.planning import Planned
    from trainers.catalog import Recipe
    from trainers.pretraining.collection import Collection

NAME = "pretrain"
PLANS = "nnsslPlans"
FOLD = "fold_all"


def plan(repo: Repo, recipe: Recipe, overrides: dict[str, Any]) -> Planned:
    """Check what model.toml says, changed by `overrides`, against the data; nothing is trained."""
    settings = planning.resolve_settings(recipe.settings, repo.toml.train.settings, overrides)
    folder = repo.dataset.resolve()
    if not (folder / FILE).is_file():
        raise NotFoundError(
            f"{folder}: no {FILE}", hint="mreg data import --pretraining, then [data] dataset in model.toml"
        )
    try:
        collection = read_collection(folder / FILE)
        with output.stage("hash the collection"):
            digest = collection_hash(collection, folder, repo.data / "hashes" / f"{folder.name}.json")
    except TrainingError as error:
        raise MregError(error.message, hint=error.hint) from error
    name = planning.settings_digest(settings, digest)
    return planning.Planned(
        recipe=recipe, settings=settings, dataset=folder, dataset_json=_facts(collection, settings), digest=digest,
        trainer_file=None, run=repo.runs / f"{NAME}-{settings['method']}-{settings['encoder']}-{name}",
    )  # fmt: skip


def job(repo: Repo, planned: Planned, *, gpus: int, max_minutes: float | None) -> dict[str, Any]:
    """Return the worker's job of a training."""
    settings = planned.settings
    return {
        **planning.job(planned, cache(repo, planned), gpus=gpus, max_minutes=max_minutes),
        "config": planning.config(
            repo, planned, trainer=f"mreg_{settings['method']}_{settings['encoder']}", plans=PLANS,
            configuration=settings["configuration"], facts=planned.dataset_json,
        ),
    }  # fmt: skip


def cache(repo: Repo, planned: Planned) -> Path:
    """Return the folder of what is computed from the images before a training."""
    settings = planned.settings
    orientation = "" if settings["keep_orientation"] else str(settings["orientation"])
    return repo.data / "preprocessed" / f"{planned.dataset.name}-{planning.short_digest(planned.digest, orientation)}"


def collection_hash(collection: Collection, folder: Path, memory: Path) -> str:
    """Return the SHA-256 of the images' and masks' bytes and of what pretrain_data.json says of them."""
    listed = list(items(collection, folder.parent))
    files = {f"{item.id} {kind}": path for item in listed for kind, path in {"": item.path, **item.masks}.items()}
    for path in files.values():
        if not path.is_file():
            raise NotFoundError(f"{path}: no such image", hint=f"mreg data verify {folder}")
    # what images are chosen by, beside their bytes
    infos = {key: dataset.dataset_info or {} for key, dataset in collection.datasets.items()}
    scores = {key: info["image_quality_score"] for key, info in infos.items() if "image_quality_score" in info}
    kinds = sorted((item.id, item.image.modality, (item.image.image_info or {}).get("derived_from")) for item in listed)
    return planning.digest_of(json_text([kinds, scores]), planning.digests(files, memory))


def _facts(collection: Collection, settings: dict[str, Any]) -> dict[str, Any]:
    """Return what of a collection travels with the model: counts and contrasts, no paths and no subjects."""
    listed = list(items(collection, Path()))
    return {
        "image_orientation": None if settings["keep_orientation"] else settings["orientation"],
        "num_training": len(listed),
        "num_subjects": len({item.subject for item in listed}),
        "modalities": sorted({item.image.modality for item in listed}),
    }
