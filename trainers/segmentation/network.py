"""The network of a trained model, from its folder: plans.json, dataset.json and fold_*/checkpoint_final.pth.

Nothing that lies in the folder is executed: checkpoints are read with `weights_only`, plans may only name network
classes, and a trainer_class.py is run only where its trainer builds its own network and the caller allows it.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import pydoc
import re
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn

from trainers.core.errors import TrainingError
from trainers.segmentation.checkpoint import FINAL, read_checkpoint, rounded_to_half
from trainers.segmentation.contract import read_document

if TYPE_CHECKING:
    from pathlib import Path

    from trainers.segmentation.checkpoint import Weights

STOCK = "nnUNetTrainer"
BUILD = "build_network_architecture"


@dataclass(frozen=True, kw_only=True)
class Model:
    """A network and what nnU-Net needs to run it; `weights` holds one state dict a fold."""

    plans: PlansManager
    configuration: ConfigurationManager
    dataset_json: dict[str, Any]
    network: nn.Module
    weights: dict[str, Weights]
    trainer: str
    mirror_axes: tuple[int, ...] | None


def load_model(folder: Path, folds: list[str], *, half: bool = False, allow_code: bool = False) -> Model:
    """Load the folds' final checkpoints and build the network that they fit.

    `half` rounds the weights to 16 bits, as a half-precision release stores them. Raises `TrainingError`.
    """
    dataset_json, plans = read_document(folder, "dataset.json"), PlansManager(read_document(folder, "plans.json"))
    checkpoints = {fold: read_checkpoint(folder / f"fold_{fold}" / FINAL) for fold in folds}
    first = checkpoints[folds[0]]
    name = first["init_args"]["configuration"]
    if name not in plans.available_configurations:
        raise TrainingError(f"{folder / 'plans.json'}: has no configuration {name!r}, which the checkpoint wants")
    configuration = plans.get_configuration(name)
    if configuration.previous_stage_name is not None:
        raise TrainingError(f"{folder}: configuration {name} is a cascade, which needs another model's output")
    network = build(folder, plans, configuration, dataset_json, first["trainer_name"], allow_code=allow_code)
    weights = {}
    for fold, checkpoint in checkpoints.items():
        path = folder / f"fold_{fold}" / FINAL
        weights[fold] = rounded_to_half(checkpoint["network_weights"], path) if half else checkpoint["network_weights"]
        try:
            network.load_state_dict(weights[fold])
        except RuntimeError as error:
            lines = str(error).splitlines()
            raise TrainingError(
                f"{path}: does not fit the network of plans.json: {' '.join(lines[1:2]).strip()[:200]}",
                hint="checkpoint, plans.json and dataset.json must come from one training",
            ) from error
    axes = first.get("inference_allowed_mirroring_axes")
    return Model(
        plans=plans, configuration=configuration, dataset_json=dataset_json, network=network, weights=weights,
        trainer=first["trainer_name"], mirror_axes=tuple(axes) if axes is not None else None,
    )  # fmt: skip


def build(
    folder: Path,
    plans: PlansManager,
    configuration: ConfigurationManager,
    dataset_json: dict[str, Any],
    trainer: str,
    *,
    allow_code: bool,
) -> nn.Module:
    """Build the network from the plans, or with the trainer class that builds its own; raise `TrainingError`."""
    inputs = determine_num_input_channels(plans, configuration, dataset_json)
    outputs = plans.get_label_manager(dataset_json).num_segmentation_heads
    own = find_builder(trainer, folder / "trainer_class.py", allow_code=allow_code)
    if not allow_code and not getattr(own, "takes_sizes_only", False):
        _check_architecture(folder / "plans.json", configuration)
    architecture = (
        configuration.network_arch_class_name,
        configuration.network_arch_init_kwargs,
        configuration.network_arch_init_kwargs_req_import,
    )
    network: nn.Module
    if own is None:
        network = get_network_from_plans(*architecture, inputs, outputs, allow_init=False, deep_supervision=False)
    elif "plans_manager" in inspect.signature(getattr(own, BUILD)).parameters:
        network = getattr(own, BUILD)(plans, configuration, inputs, outputs, enable_deep_supervision=False)
    else:
        network = getattr(own, BUILD)(*architecture, inputs, outputs, enable_deep_supervision=False)
    return network


def _check_architecture(path: Path, configuration: ConfigurationManager) -> None:
    """Refuse plans that name anything but network classes: nnU-Net imports and calls whatever stands there."""
    keywords = configuration.network_arch_init_kwargs
    named = {
        "network_class_name": configuration.network_arch_class_name,
        **{key: keywords.get(key) for key in configuration.network_arch_init_kwargs_req_import},
    }
    for key, name in named.items():
        known = isinstance(name, str) and re.fullmatch(r"(torch\.nn|dynamic_network_architectures)\.[\w.]+", name)
        found = pydoc.locate(name) if known else None
        # A class that was moved is looked for by nnU-Net, inside dynamic_network_architectures only.
        moved = key == "network_class_name" and known and found is None
        if name is not None and not moved and not (isinstance(found, type) and issubclass(found, nn.Module)):
            raise TrainingError(
                f"{path}: {key} = {name!r} is not a network class of nnU-Net or torch",
                hint="if you trust the model's author: --allow-code",
            )


def find_builder(trainer: str, file: Path, *, allow_code: bool) -> type[Any] | None:
    """Return the trainer class that builds its own network; None where plans.json describes the network.

    A trainer_class.py is read, not run, as long as it leaves the network alone.
    """
    outside, must_run = {trainer}, False
    if file.is_file():
        outside, must_run = _ancestors(trainer, file)
    if must_run:
        return _run(trainer, file, allow_code)
    for name in sorted(outside - {STOCK, "object"}):
        # Importing the trainers costs a second that the plain one does not need.
        from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

        from trainers.segmentation.trainer_classes import find_trainer_class

        try:
            found = find_trainer_class(name, None)
        except TrainingError as error:
            if file.is_file():
                return _run(trainer, file, allow_code)
            raise TrainingError(
                f"{file.parent}: trainer {trainer!r} is not one of nnU-Net's, and no trainer_class.py is here",
                hint=f"put the file that defines it there ({error.message})",
            ) from error
        if getattr(found, BUILD) is not getattr(nnUNetTrainer, BUILD):
            return found
    return None


def _ancestors(trainer: str, file: Path) -> tuple[set[str], bool]:
    """Return the classes outside the file that the trainer derives from, and whether the file builds networks."""
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except (SyntaxError, ValueError) as error:
        raise TrainingError(f"{file}: not Python: {error}") from error
    if any(isinstance(node, ast.FunctionDef) and node.name == BUILD for node in ast.walk(tree)):
        return set(), True
    classes = {node.name: node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
    outside, todo, seen = set(), [trainer], set()
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        if name not in classes:
            outside.add(name)
            continue
        todo += [ast.unparse(base).rpartition(".")[2] for base in classes[name].bases]
    return outside, False


def _run(trainer: str, file: Path, allow_code: bool) -> type[Any]:
    """Import the model's own trainer_class.py."""
    if not allow_code:
        raise TrainingError(
            f"{file}: trainer {trainer} builds its network with this file's own code, which mreg does not run unasked",
            hint="read the file; if you trust it, say so: --allow-code",
        )
    spec = importlib.util.spec_from_file_location("trainer_class", file)
    if spec is None or spec.loader is None:
        raise TrainingError(f"{file}: cannot be imported")
    module = importlib.util.module_from_spec(spec)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the author's
        try:
            spec.loader.exec_module(module)
        except ImportError as error:
            raise TrainingError(f"{file}: {error}", hint="install what it imports") from error
    found = module.get_trainer_class() if hasattr(module, "get_trainer_class") else getattr(module, trainer, None)
    if not isinstance(found, type) or not hasattr(found, BUILD):
        raise TrainingError(f"{file}: has no trainer class {trainer}")
    return found
