"""How a lesion model is told from other models: the names that its run and its archive carry."""

from __future__ import annotations

from typing import TYPE_CHECKING

from registry.runs import plans_name

if TYPE_CHECKING:
    from pathlib import Path

RECIPE = "lesion"
TRAINER, PLANS, CONFIGURATION = "LesionTrainer", "LesionPlans", "3d"


def is_lesion_model(folder: Path) -> bool:
    """Whether a run, or the folder of a released model, is of recipe lesion."""
    return plans_name(folder) == PLANS
