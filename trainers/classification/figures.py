"""Figures of a validation: ROC curves, confusion matrices and reliability diagrams, one panel a label."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from sklearn.metrics import roc_curve

from trainers.classification.validation import BINARY, bins
from trainers.core.files import atomic_path

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from trainers.classification.plan import Plan
    from trainers.classification.validation import Judged

ROC, CONFUSION, RELIABILITY = "roc.png", "confusion.png", "reliability.png"
LONGEST = 22  # letters of a class in a legend
LETTERS = 44  # of all classes beside a matrix
PANEL = 3.6  # inches
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")  # Okabe and Ito, for all eyes
STYLES = ("-", "--", "-.", ":")  # curves on one another stay visible
ROOM = 1.35  # height of a reliability diagram whose legend hides nothing
SMALLEST, WHOLE = 12, 240  # areas of its points in square points: of next to no case, and what all of them add
PLACE = (0.17, 0.14, 0.8, 0.78)  # of the axes in a panel


def draw(folder: Path, plan: Plan, cases: Sequence[Judged], document: dict[str, Any]) -> None:
    """Draw the figures of a document's cases into a folder."""
    for name, panel in ((ROC, _roc), (CONFUSION, _confusion), (RELIABILITY, _reliability)):
        figure = Figure(figsize=(PANEL * len(plan.labels), PANEL))
        for number, label in enumerate(plan.labels):
            # Fixed places: a layout that makes room for long legends can leave none for the axes.
            left, bottom, width, height = PLACE
            axes = figure.add_axes(((number + left) / len(plan.labels), bottom, width / len(plan.labels), height))
            axes.set_prop_cycle(color=COLOURS)
            known = [case for case in cases if case.targets[number] is not None]
            targets = np.array([case.targets[number] for case in known], dtype=np.int64)
            found = np.array([case.probabilities[number] for case in known], dtype=np.float64)
            panel(axes, label.values, targets, found, document["labels"][label.name])
            axes.set_title(f"{label.name}, {len(known)} cases", fontsize="medium")
        with atomic_path(folder / name) as temporary:
            figure.savefig(temporary, format="png", dpi=110, metadata={"Software": None})


def _short(value: str, longest: int = LONGEST) -> str:
    return value if len(value) <= longest else f"{value[: longest - 1]}…"


def _unit_square(axes: Any) -> None:
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=0.8)
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)


def _confusion(axes: Any, values: Sequence[str], targets: Any, found: Any, _: dict[str, Any]) -> None:
    counts = np.zeros((len(values), len(values)), int)
    if len(targets):
        np.add.at(counts, (targets, found.argmax(axis=1)), 1)
    names = [_short(value, max(4, LETTERS // len(values))) for value in values]
    axes.imshow(counts, cmap="Blues", vmin=0, vmax=max(1, counts.max()))
    axes.set_xticks(range(len(names)), names, fontsize="small")
    axes.set_yticks(range(len(names)), names, fontsize="small", rotation=90, va="center")
    for (row, column), count in np.ndenumerate(counts):
        axes.text(column, row, str(count), ha="center", va="center", color="w" if count > counts.max() / 2 else "k")
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")


def _roc(axes: Any, values: Sequence[str], targets: Any, found: Any, about: dict[str, Any]) -> None:
    _unit_square(axes)
    for number, value in enumerate(values):
        entry = about["classes"].get(value)
        if entry is None or entry["auc"] is None:
            continue
        false, true, _ = roc_curve(targets == number, found[:, number])
        low, high = entry.get("interval") or (None, None)
        interval = "" if low is None else f" ({low:.2f} to {high:.2f})"
        style = STYLES[number % len(STYLES)]
        axes.plot(false, true, style, label=f"{_short(value)}: {entry['auc']:.2f}{interval}", clip_on=False)
    axes.set_xlabel("false positive rate")
    axes.set_ylabel("true positive rate")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize="x-small", loc="lower right", title="AUC (95 % interval)", title_fontsize="x-small")


def _reliability(axes: Any, values: Sequence[str], targets: Any, found: Any, about: dict[str, Any]) -> None:
    _unit_square(axes)
    for number, value in enumerate(values):
        if (len(values) == BINARY and number == 0) or not len(targets):
            continue
        said, true = found[:, number], targets == number
        parts = bins(said)
        points = [(said[part].mean(), true[part].mean()) for part in parts]
        style = STYLES[number % len(STYLES)]
        (line,) = axes.plot(*zip(*points, strict=True), style, linewidth=0.8, label=_short(value), clip_on=False)
        areas = [SMALLEST + WHOLE * part.mean() for part in parts]  # a point of one case says little
        axes.scatter(*zip(*points, strict=True), areas, color=line.get_color(), alpha=0.8, clip_on=False, zorder=3)
    axes.set_xlabel("predicted probability")
    axes.set_ylabel("share of cases")
    if about["ece"] is not None and len(targets):
        axes.set_ylim(-0.02, ROOM)
        axes.set_yticks(np.linspace(0, 1, 6))
        axes.legend(
            fontsize="x-small", loc="upper left", ncols=2, title_fontsize="x-small",
            title=f"Brier {about['brier']:.2f}, ECE {about['ece']:.2f}; areas: cases",
        )  # fmt: skip
