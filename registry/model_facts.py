"""What a manifest says of a model, in words and in the order in which people ask."""

from __future__ import annotations

from typing import TYPE_CHECKING

from registry import orientation
from registry.classifier import RECIPE as CLASSIFIER

if TYPE_CHECKING:
    from registry.manifest import Metrics, ModelEntry, Start

BACKGROUND = "background"
MEASURES = {  # in the manifest → column of a table, decimals
    "dice": ("Dice", 3),
    "hd95_mm": ("HD95 (mm)", 2),
    "precision": ("Precision", 3),
    "recall": ("Recall", 3),
    "volume_difference_percent": ("Volume difference (%)", 1),
    "macro_auc": ("AUC", 3),
    "accuracy": ("Accuracy", 3),
    "balanced_accuracy": ("Balanced accuracy", 3),
    "brier": ("Brier score", 3),
    "ece": ("Calibration error", 3),
    "lesion_sensitivity": ("Lesion sensitivity", 3),
    "lesion_precision": ("Lesion precision", 3),
    "lesion_f1": ("Lesion F1", 3),
    "reference_lesions": ("Lesions", 1),
    "predicted_lesions": ("Predicted lesions", 1),
    "false_positive_ml": ("False positives without a lesion (ml)", 3),
}


def foreground(model: ModelEntry) -> tuple[str, ...]:
    """Return the names of what the model finds."""
    return tuple(name for name in model.labels if name != BACKGROUND)


def facts(model: ModelEntry) -> dict[str, str]:
    """Return name and value of each fact."""
    if model.pretraining is not None:
        from registry import encoder_card

        own = encoder_card.facts(model.pretraining, model.data)
        turned = orientation.describe(model.orientation) if model.orientation else "as they are"
        size = f"{model.weights.parameters / 1e6:.1f} M, {model.weights.dtype}"
        return {**own, "orientation of the images": turned, "weights": size}
    rows = {
        "labels": ", ".join(_label(model, name) for name in foreground(model)),
        "channels": ", ".join(model.channels.values()),
        "orientation": orientation.describe(model.orientation or ""),
        "endings of SCT's files": ", ".join(model.sct_suffixes),
        "network": f"{model.trainer}, {model.configuration}, {model.weights.dtype} weights",
        "folds": ", ".join(str(fold) for fold in model.folds),
        "trained on": f"{model.data.name}, {model.data.num_training} cases",
        "started from": started_from(model.start),
    }
    return {name: value for name, value in rows.items() if value}


def started_from(start: Start | None) -> str:
    """Return the model that a training started from, "" where that was chance."""
    if start is None:
        return ""
    if start.name and start.tag:
        return f"{start.name}@{start.tag}" + (f" (SHA-256 {start.sha256})" if start.sha256 else "")
    archive = f"{start.asset} (SHA-256 {start.sha256})" if start.asset and start.sha256 else ""
    return archive or f"a checkpoint with SHA-256 {start.checkpoint}"


def metrics_table(metrics: Metrics) -> list[list[str]]:
    """Return a head and one row a label, "-" where a measure is undefined."""
    measured = [key for key in MEASURES if any(key in values for values in metrics.mean.values())]
    rows = [
        [label, *(_number(values.get(key), MEASURES[key][1]) for key in measured)]
        for label, values in metrics.mean.items()
    ]
    return [["Label", *(MEASURES[key][0] for key in measured)], *rows]


def classes_table(metrics: Metrics) -> list[list[str]]:
    """Return a head and one row a class of a classifier: AUC, its 95 % interval and cases; [] for other models."""
    head = ["Label", "Class", "AUC", "95 % interval", "Cases"]
    rows = [
        [
            label, name, _number(about.auc, 3), " to ".join(f"{edge:.3f}" for edge in about.interval or ()) or "-",
            f"{about.positive} of {about.positive + about.negative}",
        ]
        for label, classes in metrics.classes.items()
        for name, about in classes.items()
    ]  # fmt: skip
    return [head, *rows] if rows else []


def metrics_origin(metrics: Metrics) -> str:
    """Return what the measures are the mean of."""
    cases = f"{metrics.cases} case{'s' * (metrics.cases != 1)}"
    split = f" ({metrics.split})" if metrics.split else ""
    what = "" if metrics.classes else "mean "
    return f"{what}over {cases} of {metrics.dataset}{split}, with the weights in this release"


def _label(model: ModelEntry, name: str) -> str:
    """Return a label and its values, or how many classes it has in a classifier."""
    value = model.labels[name]
    if model.recipe == CLASSIFIER and not isinstance(value, int):
        return f"{name} ({len(value)} classes)"
    return f"{name} = {_values(value)}"


def _values(value: int | tuple[int, ...]) -> str:
    return str(value) if isinstance(value, int) else "+".join(str(item) for item in value)


def _number(value: float | None, decimals: int) -> str:
    return "-" if value is None else f"{value:.{decimals}f}"
