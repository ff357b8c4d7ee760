"""What mreg writes into a model's card: the table of its metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from registry import output
from registry.files import write_text

if TYPE_CHECKING:
    from pathlib import Path

CARD = "README.md"
START, END = "<!-- mreg:metrics -->", "<!-- /mreg:metrics -->"
COLUMNS = {  # key of evaluation.json → heading, decimals
    "dice": ("Dice", 2),
    "hd95_mm": ("HD95 (mm)", 2),
    "precision": ("precision", 2),
    "recall": ("recall", 2),
    "volume_difference_ml": ("volume difference (ml)", 2),
    "volume_difference_percent": ("volume difference (%)", 1),
}

CLASS_COLUMNS = {
    "macro_auc": ("AUC", 2),
    "accuracy": ("accuracy", 2),
    "balanced_accuracy": ("balanced accuracy", 2),
    "brier": ("Brier score", 2),
    "ece": ("calibration error", 2),
}


def write_metrics(repo_root: Path, evaluation: dict[str, Any]) -> None:
    """Replace the metrics block of the repo's README.md by the table of an evaluation.json.

    The same evaluation twice changes nothing. A card that is missing or has no block is left alone, with a warning.
    """
    path = repo_root / CARD
    text = path.read_bytes().decode() if path.is_file() else ""
    before, start, rest = text.partition(START)
    _, end, after = rest.partition(END)
    if not (start and end):
        output.warn(f"{path}: no place for metrics; add the lines {START} and {END}")
        return
    new = f"{before}{start}\n{table(evaluation)}\n{end}{after}"
    if new != text:
        write_text(path, new)


def table(evaluation: dict[str, Any]) -> str:
    """Return the means of each label over the cases as Markdown, and a line that says of what."""
    cases = len(evaluation["cases"])
    folds = ", ".join(str(fold) for fold in evaluation["folds"])
    what = "Figures over" if "labels" in evaluation else "Mean of"
    facts = [
        f"{what} {cases} case{'s' if cases != 1 else ''} (split {evaluation['split']}) of {evaluation['dataset']}",
        f"checkpoint `{evaluation['checkpoint']}`",
        f"fold{'s' if len(evaluation['folds']) != 1 else ''} {folds}",
        *(["weights in half precision"] if evaluation["half"] else []),
    ]
    columns = CLASS_COLUMNS if "labels" in evaluation else COLUMNS
    lines = ["; ".join(facts) + ".", "", "| label | " + " | ".join(heading for heading, _ in columns.values()) + " |"]
    lines.append("|---|" + "---:|" * len(columns))
    for label, mean in evaluation["mean"].items():
        values = [_value(mean.get(key), decimals) for key, (_, decimals) in columns.items()]
        lines.append(f"| {label.replace('|', '/')} | " + " | ".join(values) + " |")
    return "\n".join(lines)


def _value(value: float | None, decimals: int) -> str:
    return "not defined" if value is None else f"{value:.{decimals}f}"
