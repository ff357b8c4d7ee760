"""How a lesion model is told from other models: the names that its run and its archive carry."""

from __future__ import annotations

from typing import TYPE_CHECKING

from registry.files import read_json

if TYPE_CHECKING:
    from pathlib import Path

RECIPE = "lesion"
TRAINER, PLANS, CONFIGURATION = "LesionTrainer", "LesionPlans", "3d"


def is_lesion_model(folder: Path) -> bool:
    """Whether a run, or the folder of a released model, is of recipe lesion."""
    path = folder / "plans.json"
    document = read_json(path) if path.is_file() else {}
    return isinstance(document, dict) and document.get("plans_name") == PLANS
