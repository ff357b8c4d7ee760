"""A collection made ready for training: fingerprint, plans, preprocessed images and a split, each computed once."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from trainers.core.cases import each_case
from trainers.core.environment import cpu_count
from trainers.core.errors import TrainingError
from trainers.core.files import read_json, write_json
from trainers.pretraining.choice import Choice
from trainers.pretraining.collection import FILE, PREPROCESSED, items, read_collection
from trainers.pretraining.plan import CONFIGURATIONS, PLANS, make_plans, spacing_of
from trainers.pretraining.preprocess import is_done, save

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from trainers.core.progress import Progress
    from trainers.pretraining.collection import Item

SPLIT_SEED = 12345  # nnssl's
FEWEST_VALIDATION, MOST_VALIDATION, SHARE = 5, 1000, 100


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """How images are prepared."""

    configuration: str = "onemmiso"
    orientation: str | None = "LPI"  # SCT's letters; None leaves images as they are
    choice: Choice = field(default_factory=Choice)
    threads: int = 1


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """Everything that a method trains on, ready on disk."""

    folder: Path  # of the preprocessed images
    plans: dict[str, Any]  # with the configuration in use alone
    training: tuple[str, ...]  # images, as paths below the folder without an ending
    validation: tuple[str, ...]
    excluded: dict[str, str]  # image → why it cannot be used


def prepare(collection: Path, cache: Path, how: Preparation, progress: Progress) -> Prepared:
    """Run the steps that are not in the cache yet; `collection` is the folder with pretrain_data.json.

    Raises `TrainingError` where fewer than two subjects have an image that can be used.
    """
    if how.configuration not in CONFIGURATIONS:
        raise TrainingError(
            f"configuration {how.configuration!r} does not exist", hint=f"choose one of: {', '.join(CONFIGURATIONS)}"
        )
    document = read_collection(collection / FILE)
    known = {item.id: item for item in items(document, collection.parent)}
    chosen = how.choice.of(document, known)
    folder = cache / document.collection_name
    excluded: dict[str, str] = {}

    def failed(case: str, error: TrainingError) -> None:
        excluded[case] = error.message
        progress.say(f"left out: {error.message}")

    plans = _plans(folder, document.collection_name, known, how, progress, failed)
    configuration = plans["configurations"][how.configuration]
    out = folder / configuration["data_identifier"]
    usable = {key: item for key, item in known.items() if key not in excluded}
    missing = [key for key, item in usable.items() if not is_done(out, item)]
    if missing:
        threads = min(how.threads, len(missing))
        packers = max(1, cpu_count() // threads)  # cores that have no image of their own help to compress
        with progress.stage("preprocess"), progress.bar("preprocess", len(missing)) as advance:
            each_case(
                lambda key: save(out, usable[key], plans, configuration, packers), missing, threads, advance, failed
            )
    good = {key: item for key, item in usable.items() if key not in excluded}
    training, validation = _split(folder / "splits_final.json", {item.subject for item in good.values()}, collection)
    _write_lists(folder, how.configuration, document.model_dump(mode="json"), good, excluded)
    if len(chosen) < len(known):
        progress.say(f"{len(chosen)} of {len(known)} images are trained on, as modalities and worst_quality say")
    wanted = [item for key, item in good.items() if key in chosen]
    return Prepared(
        folder=out,
        plans={**plans, "configurations": {how.configuration: configuration}},
        training=_names(wanted, training, "training"),
        validation=_names(wanted, validation, "validation"),
        excluded=excluded,
    )


def _names(found: list[Item], subjects: set[str], part: str) -> tuple[str, ...]:
    """Return the images of some subjects, as paths without an ending; raise `TrainingError` where there are none."""
    names = tuple(f"{item.folder}/{item.stem}" for item in found if item.subject in subjects)
    if not names:
        raise TrainingError(
            f"none of the {len(found)} images that modalities and worst_quality leave is for {part}",
            hint="take more images",
        )
    return names


def _plans(
    folder: Path,
    name: str,
    known: dict[str, Item],
    how: Preparation,
    progress: Progress,
    failed: Callable[[str, TrainingError], None],
) -> dict[str, Any]:
    """Return nnsslPlans.json, made now unless it is there; images without a readable header are reported each time."""
    file = folder / f"{PLANS}.json"
    with progress.stage("fingerprint"), progress.bar("fingerprint", len(known)) as advance:
        spacings = each_case(
            lambda key: spacing_of(known[key].path, how.orientation), list(known), how.threads, advance, failed
        )
    if not spacings:
        raise TrainingError(f"{name}: no image can be read", hint="mreg data verify tells of everything that is wrong")
    if not file.is_file():
        write_json(
            folder / "dataset_fingerprint.json", {"spacings": [spacings[key] for key in known if key in spacings]}
        )
        write_json(file, make_plans(name, [spacings[key] for key in known if key in spacings], how.orientation))
    plans: dict[str, Any] = read_json(file)
    if plans["image_orientation"] != how.orientation:
        raise TrainingError(
            f"{file}: planned for orientation {plans['image_orientation']}, not {how.orientation}",
            hint="remove the folder to plan anew",
        )
    return plans


def _split(file: Path, subjects: set[str], collection: Path) -> tuple[set[str], set[str]]:
    """Return the subjects for training and for validation; drawn once, later subjects are trained on.

    nnssl takes one subject in a hundred for validation, at least five and at most a thousand; of a collection too small
    for that we take no more than half.
    """
    if len(subjects) <= 1:
        raise TrainingError(
            f"{collection}: images of {len(subjects)} subjects, needs two", hint="one for training, one for validation"
        )
    if file.is_file():
        validation = set(read_json(file)[0]["val"]) & subjects
        if validation and validation != subjects:
            return subjects - validation, validation
    count = min(MOST_VALIDATION, max(FEWEST_VALIDATION, len(subjects) // SHARE), len(subjects) // 2)
    validation = set(random.Random(SPLIT_SEED).sample(sorted(subjects), count))  # noqa: S311 - no secret
    write_json(file, [{"train": sorted(subjects - validation), "val": sorted(validation)}])
    return subjects - validation, validation


def _write_lists(
    folder: Path, configuration: str, document: dict[str, Any], good: dict[str, Item], excluded: dict[str, str]
) -> None:
    """Write what is there, as nnssl finds it, and what is not."""
    place = f"{folder.name}/{PLANS}_{configuration}"
    entries: dict[str, list[dict[str, Any]]] = {}
    for item in good.values():
        entries.setdefault(item.folder, []).append(_preprocessed(item, place))
    name = document["collection_name"]
    for dataset_key, dataset in document["datasets"].items():
        for subject_key, subject in dataset["subjects"].items():
            for session_key, session in subject["sessions"].items():
                session["images"] = entries.get(f"{name}/{dataset_key}/{subject_key}/{session_key}", [])
            subject["sessions"] = {key: value for key, value in subject["sessions"].items() if value["images"]}
        dataset["subjects"] = {key: value for key, value in dataset["subjects"].items() if value["sessions"]}
    document["datasets"] = {key: value for key, value in document["datasets"].items() if value["subjects"]}
    write_json(folder / f"pretrain_data__{configuration}.json", document)
    write_json(folder / f"valid_imgs__{configuration}.json", sorted(good))
    write_json(folder / f"excluded__{configuration}.json", dict(sorted(excluded.items())))


def _preprocessed(item: Item, place: str) -> dict[str, Any]:
    """Return the entry of an image whose files are in the cache: paths without endings."""
    path = f"${PREPROCESSED}/{place}/{item.folder}/{item.stem}"
    masks = item.masks
    return {
        **item.image.model_dump(mode="json"),
        "image_path": path,
        "associated_masks": {
            "anonymization_mask": f"{path}__anon" if "anon" in masks else None,
            "anatomy_mask": f"{path}__anat" if "anat" in masks else None,
        },
    }
