"""How a pre-trained encoder is told from other models: the names that its run and its archive carry."""

from __future__ import annotations

from typing import TYPE_CHECKING

from registry.runs import plans_name
from trainers.pretraining.config import METHOD_NAMES

if TYPE_CHECKING:
    from pathlib import Path

RECIPE = "pretrain"
PLANS = "nnsslPlans"
FOLD = "fold_all"
PLAN, METRICS = "adaptation_plan.json", "metrics.jsonl"
TRAINERS = tuple(f"mreg_{method}_" for method in METHOD_NAMES)  # what folders of encoders begin with


def is_encoder(folder: Path) -> bool:
    """Whether a run, or the folder of a released model, is a pre-trained encoder's, of this system or of nnssl."""
    return (folder / PLAN).is_file() or plans_name(folder) == PLANS
