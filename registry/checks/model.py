"""Rules on a model's files: a trainer folder, in an archive or as a run."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from registry.checks import checkpoint, contract, encoder, fit, json_files, network, privacy, trainer, truth
from registry.checks.model_files import BEST, FINAL
from registry.checks.rules import Draft, read_object, rule, text_of
from registry.labels import output_suffixes
from registry.schemas import validate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from registry.checks.model_files import ModelFiles
    from registry.findings import Finding

MOST_SHOWN = 2  # files of one image that SCT's report takes


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


def findings(model: ModelFiles, name: str = "") -> Iterator[Finding]:
    """Yield what all rules find, and what the schemas and the labels' semantics say; `name` is the model's."""
    if model.is_encoder:
        own = (*encoder.RULES, *ENCODER_RULES)
        for entry in (*json_files.RULES, *own, *checkpoint.RULES, *privacy.CHECKPOINT_RULES):
            yield from entry.run(model)
        return
    if model.is_own:
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
