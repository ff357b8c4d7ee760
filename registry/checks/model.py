"""Rules on a model's files: a trainer folder, in an archive or as a run."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from registry import checkpoints, orientation
from registry.checks import checkpoint, trainer
from registry.checks.rules import read_object, rule
from registry.errors import MregError
from registry.labels import check_labels
from registry.schemas import validate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from registry.checkpoints import Checkpoint
    from registry.findings import Finding
    from registry.tree import Tree

FINAL, BEST = "checkpoint_final.pth", "checkpoint_best.pth"
Draft = tuple[str, str, str]  # path, message, hint


@dataclass
class ModelFiles:
    """A trainer folder at `prefix` of a tree ("" or a path that ends with a slash)."""

    tree: Tree
    prefix: str
    folder: str  # TRAINER__PLANS__CONFIGURATION
    released: bool  # whether strangers get these files
    entries: tuple[str, ...] = ()  # of an archive: its names as they stand, those of empty folders among them

    @cached_property
    def files(self) -> list[str]:
        """Return the paths inside the folder."""
        return [p.removeprefix(self.prefix) for p in self.tree.files() if p.startswith(self.prefix)]

    @cached_property
    def dataset_json(self) -> dict[str, Any] | None:
        """Return dataset.json."""
        return read_object(self.tree, f"{self.prefix}dataset.json")

    @cached_property
    def plans(self) -> dict[str, Any] | None:
        """Return plans.json."""
        return read_object(self.tree, f"{self.prefix}plans.json")

    @cached_property
    def folds(self) -> dict[str, set[str]]:
        """Return fold → names of its files; SCT takes whatever begins with fold_ for one, an empty folder, a file."""
        found: dict[str, set[str]] = {}
        empty = [name.removeprefix(self.prefix) for name in self.entries if name.startswith(self.prefix)]
        for path in (*self.files, *empty):
            top, _, rest = path.partition("/")
            if top.startswith("fold_"):
                found.setdefault(top, set()).update({rest} - {""})
        return found

    @cached_property
    def strangers(self) -> list[str]:
        """Return the final checkpoints in folders that are no fold: SCT sees them when it chooses what to load."""
        found = [path.split("/") for path in self.files if path.count("/") == 1 and not path.startswith((".", "fold_"))]
        return sorted("/".join(parts) for parts in found if parts[1] == FINAL)

    @cached_property
    def checkpoints(self) -> dict[str, Checkpoint | MregError]:
        """Return path → description, or why there is none; nothing is executed.

        Of what strangers get every checkpoint counts, of a run the final ones: the latest may be half written.
        """
        found: dict[str, Checkpoint | MregError] = {}
        wanted = [path for path in self.files if path.endswith((".pth", ".pt"))]
        if not self.released:
            wanted = [f"{fold}/{FINAL}" for fold, names in self.folds.items() if FINAL in names]
        for path in map(self.at, wanted):
            try:
                with self.tree.open(path) as file:
                    found[path] = checkpoints.read_metadata(file)
            except MregError as error:
                found[path] = error
        return found

    @property
    def described(self) -> dict[str, Checkpoint]:
        """Return the checkpoints that could be read."""
        return {path: found for path, found in self.checkpoints.items() if not isinstance(found, MregError)}

    def at(self, path: str) -> str:
        """Return a path as the tree knows it."""
        return f"{self.prefix}{path}"


@rule("JSON001")
def json_is_readable(model: ModelFiles) -> Iterator[Draft]:
    """Every JSON file is JSON."""
    for path in model.files:
        if not path.endswith(".json"):
            continue
        try:
            json.loads(model.tree.read_bytes(model.at(path)))
        except (ValueError, RecursionError) as error:
            yield model.at(path), f"not JSON: {error}", "write it again"
        except MregError as error:
            yield model.at(path), error.message, error.hint


@rule("MODEL001")
def contents_are_there(model: ModelFiles) -> Iterator[Draft]:
    """dataset.json, plans.json and a fold are in the trainer folder."""
    for name, found in (("dataset.json", model.dataset_json), ("plans.json", model.plans)):
        if found is None:
            yield (
                model.at(name),
                f"no readable {name}: neither SCT nor nnU-Net can load the model",
                "pack it: mreg package",
            )
    if not model.folds:
        yield model.at("fold_0"), "no fold_N folder", "pack a finished run: mreg package"


@rule("MODEL002")
def folds_are_numbers(model: ModelFiles) -> Iterator[Draft]:
    """Folds are fold_0, fold_1 …, or fold_all alone."""
    for fold in model.folds:
        if fold == "fold_all" and len(model.folds) > 1:
            yield model.at(fold), "fold_all beside other folds: SCT stops with ValueError", "ship one or the other"
        elif fold != "fold_all" and not re.fullmatch(r"fold_(0|[1-9][0-9]*)", fold):
            yield model.at(fold), f"{fold} is no fold, and SCT takes it for one and stops", "remove it"


@rule("MODEL003")
def every_fold_has_one_kind_of_checkpoint(model: ModelFiles) -> Iterator[Draft]:
    """Every fold has checkpoint_final.pth (or every fold checkpoint_best.pth)."""
    finals = {fold for fold, names in model.folds.items() if FINAL in names}
    bests = {fold for fold, names in model.folds.items() if BEST in names}
    if not finals and model.strangers:
        for path in model.strangers:
            yield model.at(path), f"SCT looks for {FINAL} in every fold because of this one", "remove it"
    elif finals and finals != set(model.folds):
        for fold in sorted(set(model.folds) - finals):
            yield (
                model.at(fold),
                f"no {FINAL}, other folds have one: SCT cannot load this fold",
                "train it to the end, or remove it",
            )
    elif not finals and bests != set(model.folds):
        for fold in sorted(set(model.folds) - bests):
            yield model.at(fold), f"no {FINAL}", "train the fold to the end"


@rule("MODEL004", "warning")
def checkpoint_is_the_final_one(model: ModelFiles) -> Iterator[Draft]:
    """checkpoint_final.pth is shipped, and nothing else."""
    for fold, names in model.folds.items():
        if BEST in names and model.released:
            extra = "beside the final one" if FINAL in names else "in place of the final one, which is evaluated"
            yield model.at(f"{fold}/{BEST}"), f"{BEST} {extra}", f"ship {FINAL} only"
        if "checkpoint_latest.pth" in names and model.released:
            yield model.at(f"{fold}/checkpoint_latest.pth"), "an unfinished training's checkpoint", "remove it"


@rule("MODEL005")
def folder_name_matches(model: ModelFiles) -> Iterator[Draft]:
    """The folder is TRAINER__PLANS__CONFIGURATION of its checkpoints and plans."""
    parts = model.folder.split("__")
    if len(parts) != 3:  # noqa: PLR2004 - trainer, plans, configuration
        yield model.prefix, f"folder {model.folder!r} is not TRAINER__PLANS__CONFIGURATION", "pack it: mreg package"
        return
    trainer, plans, configuration = parts
    configurations = (model.plans or {}).get("configurations")
    if isinstance(configurations, dict) and configuration not in configurations:
        yield (
            model.at("plans.json"),
            f"no configuration {configuration!r}, which the folder names",
            "pack the run again",
        )
    if model.plans and model.plans.get("plans_name") not in (None, plans):
        yield (
            model.at("plans.json"),
            f"plans_name {model.plans['plans_name']!r}, the folder says {plans!r}",
            "pack the run again",
        )
    for path, found in model.described.items():
        if found.trainer_name != trainer:
            yield path, f"trainer_name {found.trainer_name!r}, the folder says {trainer!r}", "do not rename the folder"
        if found.configuration != configuration:
            yield (
                path,
                f"configuration {found.configuration!r}, the folder says {configuration!r}",
                "do not rename the folder",
            )


@rule("MODEL006", "warning")
def fingerprint_matches(model: ModelFiles) -> Iterator[Draft]:
    """dataset_fingerprint.json describes numTraining cases."""
    fingerprint = read_object(model.tree, model.at("dataset_fingerprint.json"))
    count = (model.dataset_json or {}).get("numTraining")
    if fingerprint is None or not isinstance(count, int):
        return
    for key in ("spacings", "shapes_after_crop"):
        values = fingerprint.get(key)
        if isinstance(values, list) and len(values) != count:
            yield (
                model.at("dataset_fingerprint.json"),
                f"{len(values)} {key}, dataset.json says {count} cases",
                "pack the run again",
            )


@rule("MODEL007", "warning")
def one_channel(model: ModelFiles) -> Iterator[Draft]:
    """The model has one input channel: SCT has no way to give it more."""
    channels = (model.dataset_json or {}).get("channel_names")
    if isinstance(channels, dict) and len(channels) > 1:
        yield model.at("dataset.json"), f"{len(channels)} channels: SCT cannot run it", "nnU-Net and mreg predict can"


@rule("ORIENT001")
def orientation_is_written(model: ModelFiles) -> Iterator[Draft]:
    """dataset.json says image_orientation, one of SCT's 48 codes."""
    if model.dataset_json is not None:
        yield from missing_orientation(model.dataset_json, model.at("dataset.json"))


RULES = [
    json_is_readable, contents_are_there, folds_are_numbers, every_fold_has_one_kind_of_checkpoint,
    checkpoint_is_the_final_one, folder_name_matches, fingerprint_matches, one_channel, orientation_is_written,
]  # fmt: skip


def findings(model: ModelFiles) -> Iterator[Finding]:
    """Yield what all rules find, and what the schemas and the labels' semantics say."""
    for entry in (*RULES, *checkpoint.RULES, *trainer.RULES):
        yield from entry.run(model)
    if model.dataset_json is not None:
        yield from dataset_document(model.dataset_json, model.at("dataset.json"))
    if model.plans is not None:
        yield from validate("plans", model.plans, model.at("plans.json"))


def dataset_document(document: dict[str, Any], path: str) -> Iterator[Finding]:
    """Yield what schema and label semantics find in a dataset.json."""
    # ORIENT001 and ORIENT002 say the same of this key, in both conventions
    about = ("image_orientation", "key 'image_orientation'")
    found = [finding for finding in validate("dataset", document, path) if not finding.message.startswith(about)]
    yield from found
    if not any(finding.level == "error" for finding in found):
        yield from check_labels(document, path)


def missing_orientation(document: dict[str, Any], path: str) -> Iterator[Draft]:
    """Say that image_orientation is missing, or is none of the 48 codes."""
    code = document.get("image_orientation")
    if code is None:
        other = '; the key is not "orientation"' if "orientation" in document else ""
        message = f"no image_orientation: SCT takes it for {orientation.describe('LPI')} without a word{other}"
        yield path, message, f'for example "image_orientation": "RPI", which is {orientation.describe("RPI")}'
    elif not orientation.is_valid(code):
        guess = str(code).strip().upper()
        hint = "three capitals, one of R/L, A/P and I/S, in SCT's letters: " + orientation.describe("RPI")
        if orientation.is_valid(guess):
            hint = f"did you mean {orientation.describe(guess)}?"
        yield path, f"image_orientation {code!r} is none of the 48 codes: SCT stops, or takes it for another", hint
