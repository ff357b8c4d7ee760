"""Rules on the trainer class that a model needs, read as text: a custom one is executed on its users' machines."""

from __future__ import annotations

import ast
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from registry.checks.rules import rule
from registry.errors import MregError
from registry.files import read_json
from registry.trainer_code import FILE_NAME, FUNCTION

if TYPE_CHECKING:
    from collections.abc import Iterator

    from registry.checks.model import ModelFiles

Draft = tuple[str, str, str]
STOCK_FILE = Path(__file__).parents[1] / "stock_trainers.json"
# What nnU-Net itself needs is wherever a model runs.
INSTALLED = sys.stdlib_module_names | {
    "torch", "numpy", "scipy", "nibabel", "SimpleITK", "skimage", "sklearn", "pandas", "matplotlib", "seaborn",
    "tqdm", "einops", "requests", "nnunetv2", "batchgenerators", "batchgeneratorsv2", "acvl_utils",
    "dynamic_network_architectures",
}  # fmt: skip


@cache
def stock() -> tuple[frozenset[str], frozenset[str], str]:
    """Return the trainers that SCT's nnU-Net has, those that only a newer nnU-Net has, and the name of SCT's."""
    known = read_json(STOCK_FILE)
    return frozenset(known["sct"]["trainers"]), frozenset(known["newer"]["trainers"]), str(known["sct"]["package"])


@rule("TRAINER001")
def trainer_is_found(model: ModelFiles) -> Iterator[Draft]:
    """The trainer is one that SCT's nnU-Net has, or trainer_class.py defines it."""
    ours, newer, package = stock()
    if FILE_NAME in model.files:
        return
    for name in sorted(_needed(model) - ours):
        why = f"is not in {package}, which SCT installs" if name in newer else "is none of nnU-Net's"
        yield model.at(FILE_NAME), f"trainer {name} {why}, and there is no {FILE_NAME}", "add the file that defines it"


@rule("TRAINER002")
def trainer_class_is_the_models(model: ModelFiles) -> Iterator[Draft]:
    """trainer_class.py is Python and defines the checkpoint's trainer, a subclass of one of nnU-Net's."""
    body = _body(model)
    if isinstance(body, MregError):
        yield model.at(FILE_NAME), body.message, "mend it"
    if not isinstance(body, list):
        return
    classes = {node.name: node for node in body if isinstance(node, ast.ClassDef)}
    for name in sorted(_needed(model) - set(classes)):
        yield model.at(FILE_NAME), f"no class {name}, which the checkpoint names", "rename the class, or add it"
    for name in sorted(_needed(model) & set(classes)):
        if not _derived(name, classes):
            yield model.at(FILE_NAME), f"class {name} does not derive from a trainer of nnU-Net", "derive it"


@rule("TRAINER003")
def trainer_class_is_found_by_sct(model: ModelFiles) -> Iterator[Draft]:
    """A released trainer_class.py has get_trainer_class(), which SCT calls."""
    body = _body(model)
    if not isinstance(body, list) or not model.released:
        return
    if not any(isinstance(node, ast.FunctionDef) and node.name == FUNCTION for node in body):
        yield model.at(FILE_NAME), f"no {FUNCTION}(): SCT cannot use the file", "mreg package adds it"


@rule("TRAINER004", "warning")
def trainer_class_imports_what_is_there(model: ModelFiles) -> Iterator[Draft]:
    """trainer_class.py imports only what nnU-Net brings along."""
    body = _body(model)
    for node in ast.walk(ast.Module(body, [])) if isinstance(body, list) else ():
        modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            modules = [node.module or ""] if not node.level else ["."]
        for module in modules:
            if module.partition(".")[0] not in INSTALLED:
                line = getattr(node, "lineno", 0)
                message = f"line {line}: imports {module}, which users of the model may not have"
                yield model.at(FILE_NAME), message, "do without it: a failing import stops every prediction"


RULES = [
    trainer_is_found, trainer_class_is_the_models, trainer_class_is_found_by_sct, trainer_class_imports_what_is_there,
]  # fmt: skip


def _needed(model: ModelFiles) -> set[str]:
    return {found.trainer_name for found in model.described.values()}


def _body(model: ModelFiles) -> list[ast.stmt] | MregError | None:
    """Return the statements of trainer_class.py, None where there is none; nothing is executed."""
    if FILE_NAME not in model.files:
        return None
    try:
        return ast.parse(model.tree.read_bytes(model.at(FILE_NAME))).body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return MregError(f"not Python: {error or 'nested too deeply'}")
    except MregError as error:
        return error


def _derived(name: str, classes: dict[str, ast.ClassDef]) -> bool:
    """Whether a class derives from something called like nnU-Net's trainers, by way of classes of the file."""
    rest, seen = [name], set()
    while rest:
        current = rest.pop()
        seen.add(current)
        for base in classes[current].bases:
            last = ast.unparse(base).rpartition(".")[2]
            # a class may have the name of the one that it derives from
            if last.startswith("nnUNet") and (last not in classes or last == current):
                return True
            if last in classes and last not in seen:
                rest.append(last)
    return False
