"""What mreg writes into a model's card: the table of its metrics."""

from __future__ import annotations

from statistics import stdev
from typing import TYPE_CHECKING, Any

from registry import output
from registry.files import atomic_write, write_text
from registry.scrub import picture

if TYPE_CHECKING:
    from pathlib import Path

CARD = "README.md"
PLACE = "figures"
FIGURES = {  # of a run → what the card says they are
    "predictions.png": "Slices of measured cases, each plain and with reference (orange) and prediction (blue)",
    "roc.png": "ROC curves of each label, with the area under each and its 95 % interval",
    "confusion.png": "Confusion matrix of each label: rows are true classes, columns predicted ones",
    "reliability.png": "Share of cases of a class against its predicted probability, for each label",
}
FEWEST_SPREAD = 3  # cases that have a standard deviation worth the name
START, END = "<!-- mreg:metrics -->", "<!-- /mreg:metrics -->"
COLUMNS = {  # key of evaluation.json → heading, decimals
    "dice": ("Dice", 2),
    "hd95_mm": ("HD95 (mm)", 2),
    "precision": ("precision", 2),
    "recall": ("recall", 2),
    "volume_difference_ml": ("volume difference (ml)", 2),
    "volume_difference_percent": ("volume difference (%)", 1),
}
LESION_COLUMNS = {  # of a lesion model, beside those of voxels
    "lesion_sensitivity": ("lesion sensitivity", 2),
    "lesion_precision": ("lesion precision", 2),
    "lesion_f1": ("lesion F1", 2),
    "reference_lesions": ("lesions", 1),
    "predicted_lesions": ("predicted lesions", 1),
    "reference_ml": ("volume (ml)", 2),
    "predicted_ml": ("predicted volume (ml)", 2),
    "false_positive_ml": ("false positives in cases without a lesion (ml)", 3),
}
CLASS_COLUMNS = {
    "macro_auc": ("AUC", 2),
    "accuracy": ("accuracy", 2),
    "balanced_accuracy": ("balanced accuracy", 2),
    "brier": ("Brier score", 2),
    "ece": ("calibration error", 2),
}


def write_metrics(repo_root: Path, evaluation: dict[str, Any], run: Path | None = None) -> None:
    """Replace the metrics block of the repo's README.md by the table of an evaluation.json, and figures of its run.

    The same evaluation twice changes nothing. A card that is missing or has no block is left alone, with a warning.
    """
    path = repo_root / CARD
    text = path.read_bytes().decode() if path.is_file() else ""
    before, start, rest = text.partition(START)
    _, end, after = rest.partition(END)
    if not (start and end):
        output.warn(f"{path}: no place for metrics; add the lines {START} and {END}")
        return
    shown = "".join(f"\n\n![{words}]({PLACE}/{name})" for name, words in _figures(repo_root, run).items())
    new = f"{before}{start}\n{table(evaluation)}{shown}\n{end}{after}"
    if new != text:
        write_text(path, new)


def _figures(repo_root: Path, run: Path | None) -> dict[str, str]:
    """Copy a run's figures to where the card shows them, without what a PNG says beside its picture; return which."""
    if run is None:
        return {}
    found = {name: words for name, words in FIGURES.items() if (run / name).is_file()}
    for name in found:
        target, data = repo_root / PLACE / name, picture((run / name).read_bytes(), str(run / name))
        if not target.is_file() or target.read_bytes() != data:
            with atomic_write(target) as stream:
                stream.write(data)
    return found


def table(evaluation: dict[str, Any]) -> str:
    """Return the means of each label over the cases as Markdown, and a line that says of what."""
    cases = len(evaluation["cases"])
    folds = ", ".join(str(fold) for fold in evaluation["folds"])
    what = "Figures over" if "labels" in evaluation else "Mean of"
    if what == "Mean of" and cases >= FEWEST_SPREAD:
        what = "Mean ± standard deviation of"
    facts = [
        f"{what} {cases} case{'s' if cases != 1 else ''} (split {evaluation['split']}) of {evaluation['dataset']}",
        f"checkpoint `{evaluation['checkpoint']}`",
        f"fold{'s' if len(evaluation['folds']) != 1 else ''} {folds}",
        *(["weights in half precision"] if evaluation["half"] else []),
        *([f"threshold {evaluation['threshold']:g}"] if "threshold" in evaluation else []),
        *([f"training started from {evaluation['start']}"] if evaluation.get("start") else []),
    ]
    columns = CLASS_COLUMNS if "labels" in evaluation else COLUMNS
    single = {} if "labels" in evaluation or cases < FEWEST_SPREAD else evaluation["cases"]
    lines = ["; ".join(facts) + ".", "", *_grid(evaluation["mean"], columns, single)]
    if any("lesion_f1" in mean for mean in evaluation["mean"].values()):
        lines += ["", *_grid(evaluation["mean"], LESION_COLUMNS, single)]
    if "labels" in evaluation:
        lines += ["", *_classes(evaluation["labels"])]
    return "\n".join(lines)


def _classes(labels: dict[str, dict[str, Any]]) -> list[str]:
    """Return a row for each class of each label: its AUC with the interval, or why there is none."""
    lines = ["| label | class | cases | AUC | 95 % interval |", "|---|---|---:|---:|---|"]
    for label, figures in labels.items():
        for name, about in figures["classes"].items():
            interval = " to ".join(_value(edge, 2) for edge in about.get("interval") or ()) or about.get("reason", "")
            cells = [label, name, str(about["positive"]), _value(about["auc"], 2), interval]
            lines.append(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |")
    return lines


def _grid(
    means: dict[str, dict[str, float | None]], columns: dict[str, tuple[str, int]], cases: dict[str, Any]
) -> list[str]:
    """Return a row for each label; of `cases` the spread of each figure is added."""
    lines = ["| label | " + " | ".join(heading for heading, _ in columns.values()) + " |"]
    lines.append("|---|" + "---:|" * len(columns))
    for label, mean in means.items():
        values = [
            _value(mean.get(key), decimals)
            + _spread([case.get(label, {}).get(key) for case in cases.values()], decimals)
            for key, (_, decimals) in columns.items()
        ]
        lines.append(f"| {label.replace('|', '/')} | " + " | ".join(values) + " |")
    return lines


def _spread(values: list[float | None], decimals: int) -> str:
    """Return the standard deviation of the cases in which a figure is defined, where there are enough of them."""
    defined = [value for value in values if value is not None]
    return f" ± {stdev(defined):.{decimals}f}" if len(defined) >= FEWEST_SPREAD else ""


def _value(value: float | None, decimals: int) -> str:
    return "not defined" if value is None else f"{value:.{decimals}f}"
