"""Rules that hold a checkpoint's weights against what else is said of them: the plans, the manifest, zero."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from registry import workers
from registry.checks.network import chosen, network_is_in_scts_packages
from registry.checks.rules import Draft, rule
from registry.checks.trainer import stock
from registry.errors import MregError
from registry.labels import BACKGROUND, IGNORE, check_labels
from registry.networks import MOST_LAYERS, MOST_STAGES, Shapes, UnknownNetworkError, shapes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from registry.checkpoints import Checkpoint
    from registry.checks.model_files import ModelFiles

KERNEL = 3  # dimensions of a convolution's weights, at least
LARGEST_ARCHITECTURE = 1 << 16  # characters
MOST_CHANNELS = 1 << 16
SHOWN = 3
TOGETHER = "checkpoint, plans.json and dataset.json must come from one training: pack the run again"


@rule("CKPT007", "warning")
def manifest_counts_the_weights(model: ModelFiles) -> Iterator[Draft]:
    """A checkpoint has as many weights as the manifest says."""
    for path, found in model.described.items() if model.entry is not None else ():
        said = model.entry.weights.parameters if model.entry is not None else 0
        if found.parameters != said:
            yield path, f"{found.parameters} weights, the manifest says {said}", "mreg package again"


@rule("CKPT008")
def weights_fit_the_network(model: ModelFiles) -> Iterator[Draft]:
    """The weights are those of the network that plans.json and dataset.json describe, by name and shape."""
    known: dict[str, Shapes | None] = {}
    for path, found in model.described.items():
        trainer = found.trainer_name
        if trainer not in known:
            try:
                known[trainer] = _expected(model, trainer)
            except MregError as error:
                known[trainer] = None
                yield model.at("plans.json"), f"the network cannot be built: {error.message}", TOGETHER
        wanted = known[trainer]
        if wanted is not None and (what := _difference(found, wanted)):
            yield path, f"not the network of plans.json and dataset.json: {what}", TOGETHER


@rule("CKPT009", "warning")
def no_layer_is_zero(model: ModelFiles) -> Iterator[Draft]:
    """No convolution has only zeros, which a training never leaves."""
    for path, found in model.described.items():
        try:
            weights = model.weights_of(path)
        except MregError:
            continue  # CKPT004 says so
        names = {t.storage: t.name for t in reversed(found.tensors) if len(t.shape) >= KERNEL}
        empty = [] if weights.all_zero else sorted(name for storage, name in names.items() if storage in weights.zero)
        if empty:
            yield path, f"only zeros in {_listed(empty)}", "was the checkpoint put together by hand?"


RULES = [manifest_counts_the_weights, weights_fit_the_network, no_layer_is_zero]


def _expected(model: ModelFiles, trainer: str) -> Shapes | None:
    """Return the weights of the model's network, None where nobody can tell.

    nnU-Net's two usual networks are worked out here. What else its trainers build is built by a process of its own,
    without memory for the weights, if torch is installed: nothing of the model's own code runs there.
    Raises `MregError` for a network that cannot be built.
    """
    architecture, document = chosen(model).get("architecture"), model.dataset_json or {}
    channels, heads = document.get("channel_names"), _heads(document)
    if not isinstance(architecture, dict) or not isinstance(channels, dict) or not heads or _is_custom(model):
        return None
    if chosen(model).get("previous_stage") or _is_said_already(model, document):
        return None
    if not builds_its_own(trainer):
        try:
            return shapes(architecture, len(channels), heads)
        except UnknownNetworkError:
            pass
    if trainer not in stock()[0] or not workers.installed() or not _is_modest(architecture.get("arch_kwargs")):
        return None
    job = {"kind": "shapes", "plans": model.plans, "dataset_json": document, "trainer": trainer}
    answer = workers.call("nnunet", {**job, "configuration": model.configuration})["shapes"]
    return None if answer is None else {name: tuple(shape) for name, shape in answer.items()}


def _is_said_already(model: ModelFiles, document: dict[str, Any]) -> bool:
    """Whether the labels' rules or NET001 have said why the network cannot be the one that was trained."""
    wrong = any(finding.level == "error" for finding in check_labels(document))
    return wrong or any(True for _ in network_is_in_scts_packages.function(model))


def builds_its_own(trainer: str) -> bool:
    """Whether a trainer of nnU-Net takes another network than that of plans.json."""
    return trainer == "nnUNetTrainerBN" or "Primus" in trainer


def _is_custom(model: ModelFiles) -> bool:
    """Whether trainer_class.py may build a network, with code that nobody runs here."""
    file = model.trainer_file
    if not file.exists:
        return False
    try:
        text = model.tree.read_text(file.path)
    except MregError:
        return True
    return "build_network_architecture" in text or "nnUNetTrainerBN" in text or "Primus" in text


def _heads(document: dict[str, Any]) -> int:
    """Return the channels that nnU-Net's network puts out, 0 where the labels do not say."""
    labels = document.get("labels")
    values = {k: v for k, v in labels.items() if k != IGNORE} if isinstance(labels, dict) else {}
    if any(isinstance(value, list | tuple) for value in values.values()):
        return sum(name != BACKGROUND for name in values)
    numbers = {value for value in values.values() if type(value) is int}
    return len(numbers | {0}) if len(numbers) == len(values) else 0


def _is_modest(keywords: Any) -> bool:
    """Whether a network is of a size that somebody may have trained: a stranger's plans can ask for any."""
    rest, seen = [("", keywords)], 0
    if not isinstance(keywords, dict) or len(json.dumps(keywords)) > LARGEST_ARCHITECTURE:
        return False
    while rest:
        key, node = rest.pop()
        seen += 1
        if isinstance(node, dict):
            rest += [(str(name), value) for name, value in node.items()]
        elif isinstance(node, list):
            rest += [(key, value) for value in node]
        elif isinstance(node, int | float) and not isinstance(node, bool):
            counts = key.startswith("n_") or "depth" in key
            most = MOST_STAGES if key == "n_stages" else MOST_LAYERS if counts else MOST_CHANNELS
            if not -1 <= node <= most:
                return False
    return True


def _difference(found: Checkpoint, wanted: Shapes) -> str:
    """Return in a line how a checkpoint's weights differ from those that are wanted, "" where they do not."""
    there = {tensor.name: tensor.shape for tensor in found.tensors}
    other = [name for name, shape in there.items() if name in wanted and wanted[name] != shape]
    parts = []
    if other:
        name = other[0]
        more = f" (and {len(other) - 1} more)" if len(other) > 1 else ""
        parts.append(f"{name} is {_shape(there[name])} and should be {_shape(wanted[name])}{more}")
    if missing := [name for name in wanted if name not in there]:
        parts.append(f"lacks {_listed(missing)}")
    if surplus := [name for name in there if name not in wanted]:
        parts.append(f"has {_listed(surplus)}")
    return "; ".join(parts)


def _shape(extents: tuple[int, ...]) -> str:
    return " x ".join(map(str, extents)) or "a number"


def _listed(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
