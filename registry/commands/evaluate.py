"""`mreg evaluate`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from registry import output
from registry.commands._options import device_option, json_option, out_option, registry_option

if TYPE_CHECKING:
    from rich.table import Table

COLUMNS = {  # key of evaluation.json: heading, decimals
    "dice": ("Dice", 3),
    "hd95_mm": ("HD95 mm", 2),
    "precision": ("prec.", 3),
    "recall": ("recall", 3),
    "volume_difference_ml": ("diff. ml", 3),
    "volume_difference_percent": ("diff. %", 1),
    "reference_ml": ("ref. ml", 3),
}
GIVING_WAY = ("reference_ml", "predicted_ml", "hd95_mm", "recall", "precision")  # first, where a terminal is narrow
LESION_COLUMNS = {  # of a lesion model
    "dice": ("Dice", 3),
    "hd95_mm": ("HD95 mm", 2),
    "volume_difference_percent": ("diff. %", 1),
    "reference_ml": ("ref. ml", 3),
    "predicted_ml": ("pred. ml", 3),
    "reference_lesions": ("lesions", 1),
    "predicted_lesions": ("predicted", 1),
    "lesion_sensitivity": ("found", 3),
    "lesion_precision": ("right", 3),
    "lesion_f1": ("F1", 3),
    "false_positive_ml": ("false ml", 3),
}


@click.command("evaluate")
@click.argument("target", metavar="RUN|REF")
@click.argument("dataset", type=click.Path(path_type=Path))
@click.option(
    "--split", type=click.Choice(["test", "val", "train"]), help="Cases [default: test if labelled, else val]."
)
@click.option("--half", is_flag=True, help="Measure the weights in 16 bits, as package --half stores them.")
@device_option("auto", "Where to run it.")
@click.option("--save", is_flag=True, help="Keep the predictions in the run's folder evaluation/.")
@out_option("FILE", "Write the JSON there, too.")
@click.option("--allow-code", is_flag=True, help="Run the model's own trainer_class.py where its network needs it.")
@registry_option
@json_option
def command(
    target: str,
    dataset: Path,
    split: str | None,
    half: bool,
    device: str,
    save: bool,
    out: Path | None,
    allow_code: bool,
    registry: str | None,
    as_json: bool,
) -> None:
    """Measure a model on labelled cases.

    DATASET is a raw dataset, of classes where the model is a classifier. Test cases are predicted by all folds
    together; validation cases by the fold that did not train on them. A run's figures are written to its
    evaluation.json and to the model card. "diff." is the predicted volume minus the reference's. Of a lesion model:
    how many lesions there are and how many are predicted, the share of lesions that is found and of predicted ones that
    is right, F1 of both, and the volume predicted where there is no lesion ("false").

    \b
    Examples:
      mreg evaluate runs/3d_fullres-1a2b3c4d data/raw/Dataset501_ScT2w
      mreg evaluate runs/3d_fullres-1a2b3c4d data/raw/Dataset501_ScT2w --half
      mreg evaluate model_seg_sc_t2@r20260101 Dataset501_ScT2w --json
    """
    from registry import inference
    from registry.runs import is_run

    evaluation = inference.evaluate(
        target, dataset, split=split, half=half, device=device, save=save, out=out, registry=registry,
        allow_code=allow_code,
    )  # fmt: skip
    if as_json:
        output.document(evaluation)
    elif "labels" in evaluation:
        output.answer(_of_classes(evaluation))
    elif sys.stdout.isatty():
        _print_rich(evaluation)
    else:
        output.answer(_plain(evaluation))
    if is_run(Path(target)) and not as_json:
        output.next_step("mreg check .", "mreg release --dry-run")


def _columns(evaluation: dict[str, Any]) -> dict[str, tuple[str, int]]:
    return LESION_COLUMNS if any("lesion_f1" in mean for mean in evaluation["mean"].values()) else COLUMNS


def _headings(columns: dict[str, tuple[str, int]]) -> list[str]:
    return ["case", "label", *(heading for heading, _ in columns.values())]


def _rows(evaluation: dict[str, Any], columns: dict[str, tuple[str, int]]) -> list[list[str]]:
    """Return a row for each case and label, and the means."""
    blocks = [*evaluation["cases"].items(), ("mean", evaluation["mean"])]
    return [
        [case, label, *(_number(scores[key], digits) for key, (_, digits) in columns.items())]
        for case, by_label in blocks
        for label, scores in by_label.items()
    ]


def _number(value: float | None, digits: int) -> str:
    if value is None or isinstance(value, int):
        return "-" if value is None else str(value)
    return f"{value:.{digits}f}"


def _of_classes(evaluation: dict[str, Any]) -> str:
    """Return what a classifier is worth: a row for each label, and one for each class."""
    rows = [["label", "class", "AUC", "95 %", "cases", "accuracy", "balanced", "Brier", "ECE"]]
    for name, label in evaluation["labels"].items():
        keys = ("accuracy", "balanced_accuracy", "brier", "ece")
        figures = [_number(label[key], 3) for key in keys]
        rows.append([name, "all", _number(label["macro_auc"], 3), "-", str(label["cases"]), *figures])
        for value, about in label["classes"].items():
            interval = " to ".join(f"{edge:.3f}" for edge in about.get("interval") or ()) or about.get("reason", "-")
            rows.append([name, value, _number(about["auc"], 3), interval, str(about["positive"]), *["-"] * len(keys)])
    return _aligned(rows)


def _plain(evaluation: dict[str, Any]) -> str:
    """Align the columns: names to the left, figures to the right."""
    columns = _columns(evaluation)
    return _aligned([_headings(columns), *_rows(evaluation, columns)])


def _aligned(rows: list[list[str]]) -> str:
    case, label, *widths = (max(len(cell) for cell in column) for column in zip(*rows, strict=True))
    return "\n".join(
        "  ".join(
            [row[0].ljust(case), row[1].ljust(label), *map(str.rjust, row[2:], widths)],
        )
        for row in rows
    )


def _print_rich(evaluation: dict[str, Any]) -> None:
    """Print a table that fits the terminal: columns give way, and a line says so."""
    from rich.console import Console

    columns, left_out = dict(_columns(evaluation)), []
    table = _table(evaluation, columns)
    giving_way = iter(key for key in GIVING_WAY if key in columns)
    while Console(width=10_000).measure(table).maximum > Console().width and (key := next(giving_way, "")):
        left_out.append(columns.pop(key)[0])
        table = _table(evaluation, columns)
    # Better a line that the terminal breaks than a case's name cut short.
    needed = Console(width=10_000).measure(table).maximum
    Console(width=max(needed, Console().width)).print(table)
    if left_out:
        output.say(f"left out for want of room: {', '.join(left_out)}; --json has everything")


def _table(evaluation: dict[str, Any], columns: dict[str, tuple[str, int]]) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    folds = ", ".join(map(str, evaluation["folds"]))
    title = f"{evaluation['dataset']}, {evaluation['split']}, fold {folds}{', half' * evaluation['half']}"
    if "threshold" in evaluation:
        title += f", threshold {evaluation['threshold']:g}"
    table = Table(title=title, box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, title_justify="left")
    for number, heading in enumerate(_headings(columns)):
        table.add_column(heading, justify="left" if number < 2 else "right", no_wrap=True)  # noqa: PLR2004 - two names
    first_mean = sum(len(by_label) for by_label in evaluation["cases"].values())
    for number, row in enumerate(_rows(evaluation, columns)):
        if number == first_mean:
            table.add_section()
        table.add_row(*row)
    return table
