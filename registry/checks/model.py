"""Rules on a model's files: a trainer folder, in an archive or as a run."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from registry import checkpoints, classifier, lesion_model
from registry.checks import checkpoint, contract, encoder, fit, json_files, network, privacy, trainer, truth
from registry.checks.rules import Draft, line_of, read_object, rule, text_of
from registry.errors import MregError
from registry.labels import output_suffixes
from registry.schemas import validate
from registry.trainer_code import FILE_NAME

if TYPE_CHECKING:
    from collections.abc import Iterator

    from registry.checkpoints import Checkpoint, Contents
    from registry.findings import Finding
    from registry.manifest import ModelEntry
    from registry.tree import Tree
    from registry.weights import Weights

FINAL, BEST = "checkpoint_final.pth", "checkpoint_best.pth"
CHECKPOINTS = (".pth", ".pt")
MOST_SHOWN = 2  # files of one image that SCT's report takes


@dataclass
class ModelFiles:
    """A trainer folder at `prefix` of a tree ("" or a path that ends with a slash)."""

    tree: Tree
    prefix: str
    folder: str  # TRAINER__PLANS__CONFIGURATION
    released: bool  # whether strangers get these files
    entries: tuple[str, ...] = ()  # of an archive: its names as they stand, those of empty folders among them
    weights: dict[str, Weights] = field(default_factory=dict)  # what is known of checkpoints' bytes already
    entry: ModelEntry | None = None  # what a manifest says of the model

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
    def contents(self) -> dict[str, Contents | MregError]:
        """Return path → parsed checkpoint, or why there is none; nothing is executed.

        Of what strangers get every checkpoint counts, of a run the final ones: the latest may be half written.
        """
        found: dict[str, Contents | MregError] = {}
        wanted = [path for path in self.files if path.endswith(CHECKPOINTS)]
        if not self.released:
            wanted = [f"{fold}/{FINAL}" for fold, names in self.folds.items() if FINAL in names]
        for path in map(self.at, wanted):
            try:
                with self.tree.open(path) as file:
                    found[path] = checkpoints.read_contents(file)
            except MregError as error:
                found[path] = error
        return found

    @property
    def parsed(self) -> dict[str, Contents]:
        """Return the checkpoints that could be parsed, whatever they hold."""
        return {path: found for path, found in self.contents.items() if not isinstance(found, MregError)}

    @cached_property
    def checkpoints(self) -> dict[str, Checkpoint | MregError]:
        """Return path → description of nnU-Net's checkpoint, or why there is none."""
        found: dict[str, Checkpoint | MregError] = {}
        for path, contents in self.contents.items():
            try:
                found[path] = contents if isinstance(contents, MregError) else contents.describe()
            except MregError as error:
                found[path] = error
        return found

    def weights_of(self, path: str) -> Weights:
        """Return what a described checkpoint's bytes say, read now unless they are known; raise `IntegrityError`."""
        if path not in self.weights:
            with self.tree.open(path) as file:
                self.weights[path] = checkpoints.read_weights(file)
        return self.weights[path]

    @property
    def described(self) -> dict[str, Checkpoint]:
        """Return the checkpoints that could be read."""
        return {path: found for path, found in self.checkpoints.items() if not isinstance(found, MregError)}

    @property
    def configuration(self) -> str:
        """Return the configuration that the folder names, "" where it is not named as nnU-Net does."""
        parts = self.folder.split("__")
        return parts[2] if len(parts) == 3 else ""  # noqa: PLR2004 - trainer, plans, configuration

    @property
    def trainer_file(self) -> trainer.TrainerFile:
        """Return trainer_class.py, or where it would be."""
        names = frozenset(found.trainer_name for found in self.described.values())
        return trainer.TrainerFile(self.tree, self.at(FILE_NAME), names, self.released)

    @property
    def dataset_file(self) -> contract.DatasetFile:
        """Return dataset.json, an empty one where it cannot be read."""
        path, document = self.at("dataset.json"), self.dataset_json or {}
        return contract.DatasetFile(self.tree, path, document, self.at("plans.json"))

    def at(self, path: str) -> str:
        """Return a path as the tree knows it."""
        return f"{self.prefix}{path}"

    def line(self, path: str, *keys: str | int) -> int | None:
        """Return the line of a key of a JSON file in the folder."""
        return line_of(self.tree, self.at(path), *keys)


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
    trainer_name, plans, configuration = parts
    configurations = (model.plans or {}).get("configurations")
    if isinstance(configurations, dict) and configuration not in configurations:
        message = f"no configuration {configuration!r}, which the folder names"
        yield model.at("plans.json"), message, "pack the run again", model.line("plans.json", "configurations")
    if model.plans and model.plans.get("plans_name") not in (None, plans):
        message = f"plans_name {model.plans['plans_name']!r}, the folder says {plans!r}"
        yield model.at("plans.json"), message, "pack the run again", model.line("plans.json", "plans_name")
    for path, found in model.described.items():
        said = (
            ("trainer_name", found.trainer_name, trainer_name),
            ("configuration", found.configuration, configuration),
        )
        for key, value, wanted in said:
            if value != wanted:
                yield path, f"{key} {value!r}, the folder says {wanted!r}", "do not rename the folder"


@rule("MODEL006", "warning")
def fingerprint_matches(model: ModelFiles) -> Iterator[Draft]:
    """dataset_fingerprint.json describes numTraining cases, and every channel."""
    name = "dataset_fingerprint.json"
    fingerprint = read_object(model.tree, model.at(name)) or {}
    document = model.dataset_json or {}
    count, channels = document.get("numTraining"), document.get("channel_names")
    for key in ("spacings", "shapes_after_crop"):
        values = fingerprint.get(key)
        if isinstance(count, int) and isinstance(values, list) and len(values) != count:
            message = f"{len(values)} {key}, dataset.json says {count} cases"
            yield model.at(name), message, "pack the run again", model.line(name, key)
    key = "foreground_intensity_properties_per_channel"
    values = fingerprint.get(key)
    if isinstance(channels, dict) and isinstance(values, dict) and len(values) != len(channels):
        message = f"intensities of {len(values)} channels, dataset.json names {len(channels)}"
        yield model.at(name), message, "pack the run again", model.line(name, key)


@rule("MODEL007", "warning")
def one_channel(model: ModelFiles) -> Iterator[Draft]:
    """The model has one input channel: SCT has no way to give it more."""
    channels = (model.dataset_json or {}).get("channel_names")
    if isinstance(channels, dict) and len(channels) > 1:
        message, line = f"{len(channels)} channels: SCT cannot run it", model.line("dataset.json", "channel_names")
        yield model.at("dataset.json"), message, "nnU-Net and mreg predict can", line


@rule("MODEL008", "warning")
def few_files_come_out(model: ModelFiles) -> Iterator[Draft]:
    """SCT writes one or two files for an image: its quality report stops at more."""
    labels = (model.dataset_json or {}).get("labels")
    suffixes = output_suffixes({"labels": labels}) if isinstance(labels, dict) else []
    if len(suffixes) > MOST_SHOWN:
        message = (
            f"SCT writes {len(suffixes)} files ({', '.join(suffixes)}), and sct_deepseg -qc stops at more than two"
        )
        hint = "tell the model's users to leave -qc out"
        yield model.at("dataset.json"), message, hint, model.line("dataset.json", "labels")


@rule("ORIENT001")
def orientation_is_written(model: ModelFiles) -> Iterator[Draft]:
    """dataset.json says image_orientation, one of SCT's 48 codes."""
    if model.dataset_json is not None:
        yield from contract.missing_orientation(model.dataset_file)


RULES = [
    contents_are_there, folds_are_numbers, every_fold_has_one_kind_of_checkpoint, checkpoint_is_the_final_one,
    folder_name_matches, fingerprint_matches, one_channel, few_files_come_out, orientation_is_written,
]  # fmt: skip


# Those that hold for classifiers and lesion models, too, which nobody but mreg loads.
OWN_RULES = [
    contents_are_there, folds_are_numbers, every_fold_has_one_kind_of_checkpoint, checkpoint_is_the_final_one,
    folder_name_matches, orientation_is_written,
]  # fmt: skip


# Those that hold for encoders, too, which have neither a dataset.json nor an output.
ENCODER_RULES = [
    every_fold_has_one_kind_of_checkpoint, checkpoint_is_the_final_one, folder_name_matches,
    fit.manifest_counts_the_weights,
]  # fmt: skip


def is_own(model: ModelFiles) -> bool:
    """Whether the model is of a recipe whose nets nobody but mreg loads."""
    return (model.plans or {}).get("plans_name") in (classifier.PLANS, lesion_model.PLANS)


def findings(model: ModelFiles, name: str = "") -> Iterator[Finding]:
    """Yield what all rules find, and what the schemas and the labels' semantics say; `name` is the model's."""
    if encoder.is_encoder(model):
        own = (*encoder.RULES, *ENCODER_RULES)
        for entry in (*json_files.RULES, *own, *checkpoint.RULES, *privacy.CHECKPOINT_RULES):
            yield from entry.run(model)
        return
    if is_own(model):
        for entry in (*json_files.RULES, *OWN_RULES, *checkpoint.RULES, *privacy.CHECKPOINT_RULES):
            yield from entry.run(model)
        return
    for entry in (*json_files.RULES, *RULES, *network.RULES, *checkpoint.RULES, *fit.RULES, *privacy.CHECKPOINT_RULES):
        yield from entry.run(model)
    yield from trainer.findings(model.trainer_file)
    if model.dataset_json is not None:
        yield from contract.findings(model.dataset_file)
    if model.plans is not None:
        path = model.at("plans.json")
        yield from validate("plans", model.plans, path, text_of(model.tree, path))
    path = model.at("dataset_fingerprint.json")
    fingerprint = read_object(model.tree, path)
    if fingerprint is not None:  # nobody reads it to predict, so nothing of it can break a model
        for finding in validate("dataset_fingerprint", fingerprint, path, text_of(model.tree, path)):
            yield replace(finding, level="warning")
    place = (model.at("plans.json"), model.line("plans.json", "configurations", model.configuration))
    dataset, plans = model.at("dataset.json"), model.at("plans.json")
    name = name or truth.name_in(model.tree.name)
    yield from truth.findings(truth.Claim(name, model.tree, dataset, model.configuration, place, plans))
