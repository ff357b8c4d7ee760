"""Finds the trainer class that the user names: one of nnU-Net's, or the one in the repo's trainer_class.py."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import traceback
from pathlib import Path

import nnunetv2
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from trainers.core.errors import TrainingError
from trainers.segmentation import primus


def find_trainer_class(name: str, file: Path | None) -> type[nnUNetTrainer]:
    """Return the trainer class of that name from the repo's trainer_class.py or from nnU-Net.

    nnU-Net's own search imports every module on its way, among them those that need timm and torchvision; this one
    reads the sources and imports the one module that defines the class.
    """
    if file is not None:
        return _from_file(name, file)
    if own := primus.trainer_class(name):  # nnU-Net's class of that name needs timm and torchvision
        return own
    root = Path(nnunetv2.__path__[0])
    for source in sorted((root / "training" / "nnUNetTrainer").rglob("*.py")):
        if f"class {name}(" not in (text := source.read_text(encoding="utf-8")):
            continue
        if any(isinstance(node, ast.ClassDef) and node.name == name for node in ast.parse(text).body):
            module = ".".join(("nnunetv2", *source.relative_to(root).with_suffix("").parts))
            try:
                return getattr(importlib.import_module(module), name)  # type: ignore[no-any-return]
            except (ImportError, RuntimeError) as error:
                raise TrainingError(f"trainer {name}: its module {module} does not import: {error}") from error
    raise TrainingError(
        f"trainer {name!r} is neither one of nnU-Net's nor in a trainer_class.py",
        hint="put a file trainer_class.py with that class beside model.toml, or change [train] trainer",
    )


def _from_file(name: str, file: Path) -> type[nnUNetTrainer]:
    """Import the user's own trainer_class.py: their code, from their repo, run because they asked to train it."""
    spec = importlib.util.spec_from_file_location("trainer_class", file)
    if spec is None or spec.loader is None:
        raise TrainingError(f"{file}: cannot be imported")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # anything may go wrong in a user's file
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == str(file)]
        line = error.lineno if isinstance(error, SyntaxError) else (lines or [None])[-1]
        raise TrainingError(
            f"{file}, line {line}: {type(error).__name__}: {error}", hint="the file must import; try it with python"
        ) from error
    found = getattr(module, name, None)
    if not (isinstance(found, type) and issubclass(found, nnUNetTrainer)):
        raise TrainingError(f"{file}: has no class {name} that derives from nnUNetTrainer")
    return found
