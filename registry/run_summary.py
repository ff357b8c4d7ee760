"""What the folds of a run reached on the cases that they did not train on, in a line each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from registry.files import read_json

if TYPE_CHECKING:
    from pathlib import Path

    from registry.runs import Run


def lines(run: Run) -> list[str]:
    """Return a line for each finished fold that was validated: Dice of each label, or AUC of a classifier's."""
    labels = _labels(run.path / "dataset.json")
    return [f"{fold.name.replace('_', ' ')}, {said}" for fold in run.finished_folds if (said := _of_fold(fold, labels))]


def _of_fold(fold: Path, labels: dict[str, str]) -> str:
    if (fold / "validation.json").is_file():
        document = read_json(fold / "validation.json")
        figures = {name: label["macro_auc"] for name, label in document["labels"].items()}
        return f"{_cases(len(document['cases']))}: AUC {_listed(figures)}"
    if not (fold / "validation" / "summary.json").is_file():
        return ""
    document = read_json(fold / "validation" / "summary.json")
    if "metric_per_case" in document:  # nnU-Net's own form
        figures = {labels.get(value, value): scores["Dice"] for value, scores in document["mean"].items()}
        return f"{_cases(len(document['metric_per_case']))}: Dice {_listed(figures)}"
    mean = document["mean"]
    found = f", F1 of lesions {_listed({'': mean['lesion_f1']}).strip()}" if "lesion_f1" in mean else ""
    return f"{_cases(len(document['cases']))}: Dice {_listed({'lesion': mean.get('dice')})}{found}"


def _labels(path: Path) -> dict[str, str]:
    """Return the name of each label and region, by what nnU-Net's summaries call it: "1", or "(1, 2)"."""
    written: dict[str, Any] = read_json(path).get("labels", {}) if path.is_file() else {}
    return {str(tuple(value) if isinstance(value, list) else value): name for name, value in written.items()}


def _cases(number: int) -> str:
    return f"{number} validation case{'s' * (number != 1)}"


def _listed(figures: dict[str, float | None]) -> str:
    return ", ".join(
        f"{name} {value:.3f}" if value is not None and value == value else f"{name} not defined"  # noqa: PLR0124 - NaN
        for name, value in figures.items()
    )
