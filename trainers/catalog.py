"""The recipes that mreg bundles: what they are called, what they take, and the file that runs them. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainers.classification.config import ClassificationSettings
from trainers.lesion.config import LesionSettings
from trainers.pretraining.config import PretrainingSettings
from trainers.segmentation.config import PLANS_NAMES, SegmentationSettings

if TYPE_CHECKING:
    from collections.abc import Callable

    from pydantic import BaseModel

HERE = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One bundled trainer."""

    name: str
    summary: str
    settings: type[BaseModel]  # what [train] of model.toml and --set may say
    plans_name: Callable[[dict[str, Any]], str]  # what nnU-Net calls the plans of these settings
    worker: Path  # a script: `python -P WORKER JOB.json` (a model's repo may have its own `trainers` package)


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name="nnunet",
            summary="segmentation with nnU-Net v2",
            settings=SegmentationSettings,
            plans_name=lambda settings: PLANS_NAMES[settings["planner"]],
            worker=HERE / "segmentation" / "worker.py",
        ),
        Recipe(
            name="classification",
            summary="classification of whole images, one head a label",
            settings=ClassificationSettings,
            plans_name=lambda _: "ClassificationPlans",
            worker=HERE / "classification" / "worker.py",
        ),
        Recipe(
            name="pretrain",
            summary="self-supervised pre-training of an encoder on images without labels",
            settings=PretrainingSettings,
            plans_name=lambda _: "nnsslPlans",
            worker=HERE / "pretraining" / "worker.py",
        ),
        Recipe(
            name="lesion",
            summary="segmentation of spinal cord lesions in a window that follows the cord",
            settings=LesionSettings,
            plans_name=lambda _: "LesionPlans",
            worker=HERE / "lesion" / "worker.py",
        ),
    )
}
