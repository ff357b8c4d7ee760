"""How a classifier is told from other models: the names that its run and its archive carry."""

from __future__ import annotations

from typing import TYPE_CHECKING

from registry.runs import plans_name

if TYPE_CHECKING:
    from pathlib import Path

RECIPE = "classification"
TRAINER, PLANS, CONFIGURATION = "ClassificationTrainer", "ClassificationPlans", "3d"


def is_classifier(folder: Path) -> bool:
    """Whether a run, or the folder of a released model, is a classifier's."""
    return plans_name(folder) == PLANS
