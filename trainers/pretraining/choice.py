"""Which images of a collection are trained on: by modality, and by the quality score that OpenMind gives.

A score belongs to all images of a data set that have a modality and were derived from the same kind of acquisition.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainers.core.errors import TrainingError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trainers.pretraining.collection import Collection, Item

SCORES, SCORE = "image_quality_score", "image_quality_score"  # a list of a data set, and a number of its entries


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What an image must be; the defaults take every one."""

    modalities: tuple[str, ...] = ()
    worst_quality: float | None = None  # lower is better

    def of(self, collection: Collection, found: Mapping[str, Item]) -> set[str]:
        """Return the keys of the images that are trained on.

        Raises `TrainingError` where a quality is asked for and no data set has a score.
        """
        scores = {name: _scores(dataset.dataset_info) for name, dataset in collection.datasets.items()}
        if self.worst_quality is not None and not any(scores.values()):
            raise TrainingError(
                "worst_quality: no data set of the collection has an image_quality_score",
                hint="leave it out, or write scores into dataset_info of pretrain_data.json",
            )
        return {key for key, item in found.items() if self._takes(item, scores[item.dataset])}

    def _takes(self, item: Item, scores: Mapping[tuple[str, str], float]) -> bool:
        """Whether an image is taken; one without a score is not, where a quality is asked for."""
        image = item.image
        if self.modalities and image.modality not in self.modalities:
            return False
        if self.worst_quality is None:
            return True
        derived = str((image.image_info or {}).get("derived_from") or "")
        score = scores.get((image.modality, derived))
        return score is not None and score <= self.worst_quality


def _scores(info: dict[str, Any] | None) -> dict[tuple[str, str], float]:
    """Return the scores of a data set by modality and by what images were derived from."""
    listed = (info or {}).get(SCORES, [])
    found: dict[tuple[str, str], float] = {}
    for entry in listed if isinstance(listed, list) else [listed]:
        if not isinstance(entry, dict) or not isinstance(entry.get(SCORE), int | float):
            raise TrainingError(f"dataset_info: {SCORES}: expected a list of modality, derived_from and {SCORE}")
        found[str(entry.get("modality") or ""), str(entry.get("derived_from") or "")] = float(entry[SCORE])
    return found
