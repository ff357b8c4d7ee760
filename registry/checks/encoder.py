"""Rules on pre-trained encoders: the plan that lets another training take them up, and what their readers look for."""

from __future__ import annotations

import json
import math
import re
from typing import TYPE_CHECKING, Any

from registry import encoder, names
from registry.checkpoints import CITATIONS, PLAN
from registry.checks.papers import CARD
from registry.checks.rules import Draft, read_object, rule, text_of
from registry.encoder_card import title
from registry.encoder_network import encoder_shapes
from registry.errors import MregError
from registry.networks import UnknownNetworkError
from registry.tensors import mapping

if TYPE_CHECKING:
    from collections.abc import Iterator

    from registry.checkpoints import Contents
    from registry.checks.model_files import ModelFiles
    from registry.checks.repo import RepoFiles

DOCUMENTS = (encoder.PLAN, "config.json", "environment.json", "plans.json")
METRICS = f"{encoder.FOLD}/{encoder.METRICS}"
TASK = "pretrain"  # the name's word for it
WORDS = {"ResEncL": "resencl", "PrimusM": "primusm"}  # architecture → the name's word
AGAIN = "pack the run again: mreg package"
TOML = "model.toml"
SHOWN = 3
ARXIV = re.compile(r"arXiv:(\d{4}\.\d{4,5})")


def _plan(contents: Contents) -> dict[str, Any] | None:
    """Return the adaptation plan in a checkpoint as JSON has it, None where there is none that can be read."""
    try:
        plan = json.loads(json.dumps(mapping(contents.document, "the checkpoint").get(PLAN)))
    except (MregError, TypeError, ValueError, RecursionError):
        return None
    return plan if isinstance(plan, dict) else None


@rule("PRETRAIN004")
def documents_are_there(model: ModelFiles) -> Iterator[Draft]:
    """An encoder has adaptation_plan.json, config.json, environment.json and plans.json, and one fold, fold_all."""
    for name in DOCUMENTS:
        if read_object(model.tree, model.at(name)) is None:
            yield model.at(name), f"no readable {name}", AGAIN
    if encoder.FOLD not in model.folds:
        yield model.at(encoder.FOLD), f"no folder {encoder.FOLD}", "pack a finished run: mreg package"
    for fold in model.folds:
        if fold != encoder.FOLD:
            yield model.at(fold), f"{fold}: an encoder is trained on every subject, in {encoder.FOLD}", "remove it"


@rule("PRETRAIN005")
def plan_is_the_checkpoints(model: ModelFiles) -> Iterator[Draft]:
    """The checkpoint holds an adaptation plan, and adaptation_plan.json is the same."""
    written = read_object(model.tree, model.at(encoder.PLAN))
    for path, contents in model.parsed.items():
        plan = _plan(contents)
        if plan is None:
            yield path, f"no {PLAN}: nobody can start a training from it", "train it with recipe pretrain"
        elif written is not None and plan != written:
            keys = sorted(key for key in plan.keys() | written.keys() if plan.get(key) != written.get(key))
            message = f"other than in the checkpoint: {', '.join(keys)}"
            yield model.at(encoder.PLAN), message, AGAIN, model.line(encoder.PLAN, keys[0])


@rule("PRETRAIN006")
def weights_fit_the_plan(model: ModelFiles) -> Iterator[Draft]:
    """The checkpoint has every weight of encoder and stem that its adaptation plan describes, of that shape."""
    for path, found in model.described.items():
        plan = _plan(model.parsed[path])
        if plan is None:
            continue
        try:
            wanted = encoder_shapes(plan)
        except UnknownNetworkError as error:
            yield path, f"its adaptation plan describes no encoder that is known: {error}", "train it with mreg"
            continue
        there = {tensor.name: tensor.shape for tensor in found.tensors}
        missing = [name for name in wanted if name not in there]
        other = [name for name in wanted if name in there and there[name] != wanted[name]]
        if missing:
            yield path, f"lacks {_listed(missing)} of its adaptation plan", AGAIN
        if other:
            name = other[0]
            yield path, f"{name} is {there[name]}, and its adaptation plan says {wanted[name]}", AGAIN
        inputs = plan.get("keys_to_in_proj")
        for key in inputs if isinstance(inputs, list) and inputs else ["keys_to_in_proj"]:
            if f"{key}.weight" not in there:
                yield path, f"its adaptation plan names an input that it does not have: {key}", AGAIN


@rule("PRETRAIN007", "warning")
def papers_are_named(model: ModelFiles) -> Iterator[Draft]:
    """The checkpoint names what is to be cited for it."""
    for path, contents in model.parsed.items():
        listed = mapping(contents.document, "the checkpoint").get(CITATIONS)
        if not isinstance(listed, list) or not listed:
            yield path, "names no paper, and whoever starts from it should cite its method", "train it with mreg"


@rule("PRETRAIN008", "warning")
def training_is_told(model: ModelFiles) -> Iterator[Draft]:
    """metrics.jsonl has the loss of every epoch, and the validation's is not higher at the end than at the start."""
    text = text_of(model.tree, model.at(METRICS))
    if not text.strip():
        yield model.at(METRICS), "no numbers of the training", "pack a run that mreg trained"
        return
    first: float | None = None
    last: float | None = None
    for number, row in enumerate(text.splitlines(), start=1):
        loss, validation = _losses(row)
        if loss is None or not math.isfinite(loss):
            yield model.at(METRICS), "an epoch without a loss that is a number", "did the training diverge?", number
            return
        first, last = (validation if first is None else first), validation
    if first is not None and last is not None and last > first:
        message = f"the validation loss rose from {first:.3g} to {last:.3g}"
        yield model.at(METRICS), message, "train longer, or with a lower rate", len(text.splitlines())


def _losses(row: str) -> tuple[float | None, float | None]:
    """Return training and validation loss of a line, None for each that is no number."""
    try:
        line = json.loads(row)
    except (ValueError, RecursionError):
        return None, None
    values = [line.get(key) if isinstance(line, dict) else None for key in ("loss", "val_loss")]
    loss, validation = (float(value) if isinstance(value, int | float) else None for value in values)
    return loss, validation


@rule("PRETRAIN009", "warning")
def name_is_an_encoders(repo: RepoFiles) -> Iterator[Draft]:
    """A model of recipe pretrain is called model_pretrain_…, no other is, and its architecture is the encoder's."""
    fields = names.parse(repo.name).fields
    if fields is None or isinstance(repo.toml, MregError):
        return
    line, recipe = repo.line("model", "name"), repo.toml.train.recipe
    if (fields.get("task") == [TASK]) != (recipe == encoder.RECIPE):
        message = f"{repo.name}, and the recipe is {recipe}"
        hint = f"model_{TASK}_… is for recipe {encoder.RECIPE}, and only for it"
        yield TOML, message, hint, line
        return
    (said,) = fields.get("architecture") or [""]
    wanted = _word(repo.toml.train.settings) if recipe == encoder.RECIPE else said
    if said != wanted:
        hint = f"end the name with _{wanted}" if wanted else "leave the architecture out: no word means this size"
        message = f"the name says {said or 'no architecture'}, the encoder is {wanted or 'of another size'}"
        yield TOML, message, hint, line


def _word(settings: dict[str, Any]) -> str:
    """Return the name's word for the encoder that settings ask for, "" for a size that has none."""
    if settings.get("profile", "full") != "full" or settings.get("encoder_options"):
        return ""
    return WORDS["PrimusM" if settings.get("encoder") == "primus" else "ResEncL"]


@rule("PRETRAIN010", "warning")
def card_says_how_to_start(repo: RepoFiles) -> Iterator[Draft]:
    """The card of an encoder shows mreg train --from, and cites the paper of its method."""
    if isinstance(repo.toml, MregError) or repo.toml.train.recipe != encoder.RECIPE:
        return
    text = repo.text(CARD)
    if text.strip() and "mreg train --from" not in text:
        yield CARD, "does not show how a training starts from the encoder", f"mreg train --from {repo.name}", 1
    settings = {"method": "mae", "encoder": "resenc", **repo.toml.train.settings}
    papers = _papers(str(settings["method"]), str(settings["encoder"]))
    if text.strip() and _is_trained(repo) and papers and not any(paper in text for paper in papers):
        message = f"does not cite the paper of {title(str(settings['method']))}"
        yield CARD, message, f"arXiv:{papers[0]}; mreg train writes the list into the block of results", 1


def _papers(method: str, kind: str) -> list[str]:
    """Return the arXiv numbers of a method's own papers."""
    from trainers.pretraining.citations import citations

    try:
        entries = citations(method, kind)
    except KeyError:
        return []
    texts = [text for entry in entries if entry["type"] == "Pretraining" for text in entry["apa_citations"]]
    return [number for text in texts for number in ARXIV.findall(text)]


def _is_trained(repo: RepoFiles) -> bool:
    """Whether the card's results are filled in: a new repo has nothing to cite yet."""
    return "Not trained yet" not in repo.text(CARD)


RULES = [documents_are_there, plan_is_the_checkpoints, weights_fit_the_plan, papers_are_named, training_is_told]
REPO_RULES = [name_is_an_encoders, card_says_how_to_start]


def _listed(found: list[str]) -> str:
    return ", ".join(found[:SHOWN]) + (f" and {len(found) - SHOWN} more" if len(found) > SHOWN else "")
