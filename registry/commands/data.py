"""`mreg data import` and `mreg data verify`."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import click

from registry import output
from registry.commands._data_lesion import crop, index
from registry.commands._options import dataset_id_option, json_option
from registry.splits import LEAVE_ONE_OUT

FEWEST_FOLDS = 2
# Options that say nothing of classes.
OF_MASKS = {"regions": "--region", "folds": "--folds", "variable": "--variable", "pretraining": "--pretraining"}
# Options that say nothing of images without labels.
OF_LABELLED = {
    "regions": "--region", "tests": "--test-subject", "orientation": "--orientation", "folds": "--folds",
    "threshold": "--threshold",
}  # fmt: skip


@click.group("data")
def command() -> None:
    """Import and verify datasets.

    \b
    Examples:
      mreg data import ~/data/bids data/raw --dataset-id 501
      mreg data verify data/raw/Dataset501_ScT2w
      mreg data crop data/raw/Dataset510_Lesions data/raw --dataset-id 511
    """


command.add_command(crop)
command.add_command(index)


def _pairs(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    """Split NAME=VALUE flags."""
    del context
    pairs: dict[str, str] = {}
    for value in values:
        name, equals, rest = value.partition("=")
        if not (name and equals and rest):
            raise click.BadParameter(f"{value!r} is not NAME=VALUE", param_hint=parameter.opts[0])
        if name in pairs:
            raise click.BadParameter(f"{name} is given twice", param_hint=parameter.opts[0])
        pairs[name] = rest
    return pairs


def _classify(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, list[str]]:
    """Split COLUMN and COLUMN=CLASS,CLASS flags."""
    del context
    found: dict[str, list[str]] = {}
    for value in values:
        column, equals, rest = value.partition("=")
        classes = [word.strip() for word in rest.split(",")] if equals else []
        if not column or (equals and (len(set(classes)) < max(2, len(classes)) or not all(classes))):
            raise click.BadParameter(
                f"{value!r} is neither COLUMN nor COLUMN=CLASS,CLASS with two classes or more",
                param_hint=parameter.opts[0],
            )
        if column in found:
            raise click.BadParameter(f"{column} is given twice", param_hint=parameter.opts[0])
        found[column] = classes
    return found


def _folds(context: click.Context, parameter: click.Parameter, value: str | None) -> int | str | None:
    """Read a number of folds, or leave-one-out."""
    del context
    if value is None or value == LEAVE_ONE_OUT:
        return value
    if not value.isdecimal() or int(value) < FEWEST_FOLDS:
        raise click.BadParameter(
            f"{value!r} is neither {LEAVE_ONE_OUT} nor a number from {FEWEST_FOLDS} on", param_hint=parameter.opts[0]
        )
    return int(value)


@command.command("import", short_help="Make a dataset of BIDS, Decathlon or AUC23 data.")
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("destination", type=click.Path(path_type=Path))
@dataset_id_option
@click.option("--name", default="", metavar="NAME", help="Name of the dataset [default: labels and contrasts].")
@click.option("--contrast", "contrasts", multiple=True, metavar="TAIL", help="Tail of the image's name; one a channel.")
@click.option(
    "--label", "labels", multiple=True, metavar="NAME=TAIL", callback=_pairs, help="Label and its mask's tail."
)
@click.option("--region", "regions", multiple=True, metavar="NAME=A+B", callback=_pairs, help="Train NAME as a union.")
@click.option("--test-subject", "tests", multiple=True, metavar="SUBJECT", help="Keep a subject for testing.")
@click.option(
    "--orientation",
    default="RPI",
    metavar="CODE",
    show_default=True,
    help="Orientation of all images, in SCT's letters.",
)
@click.option(
    "--folds",
    metavar="K|leave-one-out",
    callback=_folds,
    help="Folds by subject [default: 5, or one a subject where there are fewer].",
)
@click.option(
    "--threshold", default=0.5, metavar="VALUE", show_default=True, help="A soft mask counts above this value."
)
@click.option(
    "--jim-flip",
    "flips",
    type=click.Choice(["x", "y"]),
    multiple=True,
    help="Of a table of lesions: mirror contours drawn in Jim along the image's first (x) or second (y) axis.",
)
@click.option(
    "--classify",
    metavar="COLUMN[=A,B]",
    multiple=True,
    callback=_classify,
    help="Import classes of whole images: a column of a table, or of participants.tsv.",
)
@click.option("--pretraining", is_flag=True, help="Import images alone, as a collection for pre-training.")
@click.option("--variable", default="", metavar="NAME", help="With --pretraining: leave images there, as $NAME/….")
@json_option
@click.pass_context
def import_(
    context: click.Context,
    /,
    source: Path,
    destination: Path,
    as_json: bool,
    **given: Any,
) -> None:
    """Import a BIDS tree, a Decathlon or AUC23 folder, or a table of classified images, as a raw dataset.

    Masks are looked for under derivatives/labels as IMAGE_label-TAIL.nii.gz. Of several labels a later one lies on top.
    All images get one orientation, which is written to dataset.json. Prints the dataset's folder.

    With --classify, images and their classes become a dataset TaskNNN_Name for recipe classification. SOURCE is a table
    with the columns case, image (or image_T1w, image_T2w: one a channel), optionally mask and subject, and one for
    each label; or a BIDS tree with participants.tsv. --label names a mask's value in a table, its tail in a tree.

    A table without --classify lists lesions: columns subject, session, contrast, image, lesion (a mask, or contours
    drawn in Jim: .roi), cord (a mask or centreline) and split (train, val, test). mreg data index writes one.

    With --pretraining, the images of a BIDS tree or of an nnU-Net raw dataset become a collection (pretrain_data.json);
    --label anatomy=TAIL and anonymisation=TAIL bring masks along.

    \b
    Examples:
      mreg data import ~/data/bids data/raw --dataset-id 501
      mreg data import ~/data/bids data/raw --dataset-id 501 --contrast T2w \\
          --label sc=SC_seg --test-subject sub-05
      mreg data import bids data/raw --dataset-id 502 --label sc=SC_seg \\
          --label lesion=lesion_seg --region sc=sc+lesion
      mreg data import bids data/raw --dataset-id 503 \\
          --contrast flip-1_mt-off_MTS --contrast flip-1_mt-on_MTS
      mreg data import lesions.csv data/raw --dataset-id 510
      mreg data import cases.csv data/raw --dataset-id 521 \\
          --classify lesion=absent,present --classify contrast
      mreg data import bids data/raw --dataset-id 522 --classify pathology \\
          --contrast T2w --label sc=SC_seg
      mreg data import bids data/raw --dataset-id 530 --name SpineSSL \\
          --pretraining --label anatomy=SC_seg
    """
    if given["flips"] and (given["classify"] or given["pretraining"] or not source.is_file()):
        raise click.UsageError("--jim-flip goes with a table of lesions")
    if given["variable"] and not given["pretraining"]:
        raise click.UsageError("--variable goes with --pretraining")
    if given["classify"]:
        folder = _import_classes(context, source, destination)
    elif given["pretraining"]:
        folder = _import_collection(context, source, destination)
    else:
        folder = _import_labelled(source, destination, given)
    if as_json:
        output.document({"dataset": str(folder)})
        return
    output.answer(folder)
    output.next_step(f"mreg data verify {shlex.quote(str(folder))}", "mreg train")


def _import_labelled(source: Path, destination: Path, given: dict[str, Any]) -> Path:
    from registry.dataset import import_dataset

    return import_dataset(
        source,
        destination,
        number=given["number"],
        name=given["name"],
        contrasts=given["contrasts"],
        labels=given["labels"],
        regions={region: parts.split("+") for region, parts in given["regions"].items()},
        tests=given["tests"],
        code=given["orientation"],
        folds=given["folds"],
        threshold=given["threshold"],
        flips=("x" in given["flips"], "y" in given["flips"]),
    )


def _import_classes(context: click.Context, source: Path, destination: Path) -> Path:
    given = context.params
    for name, flag in OF_MASKS.items():
        if context.get_parameter_source(name) == click.core.ParameterSource.COMMANDLINE:
            raise click.UsageError(f"{flag} does not go with --classify")
    from registry.classification_import import import_classification

    return import_classification(
        source,
        destination,
        number=given["number"],
        classify=given["classify"],
        name=given["name"],
        contrasts=given["contrasts"],
        masks=given["labels"],
        tests=given["tests"],
        code=given["orientation"],
        threshold=given["threshold"],
    )


def _import_collection(context: click.Context, source: Path, destination: Path) -> Path:
    given = context.params
    variable = given["variable"]
    for name, flag in OF_LABELLED.items():
        if context.get_parameter_source(name) == click.core.ParameterSource.COMMANDLINE:
            raise click.UsageError(f"{flag} does not go with --pretraining")
    if not given["name"]:
        raise click.UsageError("--pretraining needs --name")
    if variable and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", variable):
        raise click.BadParameter(f"{variable!r} is no name of a variable", param_hint="--variable")
    from registry.pretraining_import import import_collection

    return import_collection(
        source,
        destination,
        number=given["number"],
        name=given["name"],
        contrasts=given["contrasts"],
        masks=given["labels"],
        variable=variable,
    )


@command.command("verify", short_help="Report every problem of a dataset, per file.")
@click.argument("dataset", type=click.Path(path_type=Path))
@json_option
@click.pass_context
def verify(context: click.Context, dataset: Path, as_json: bool) -> None:
    """Report every problem of a raw dataset or a collection for pre-training, per file.

    Reads each image once: geometry, orientation against dataset.json, label values, channels, duplicates, NaN,
    counts and splits. Exit status 1 if one is an error.

    \b
    Examples:
      mreg data verify data/raw/Dataset501_ScT2w
    """
    from registry.dataset_verify import verify as run

    report = run(dataset, progress=True)
    if as_json:
        output.document(report.as_json())
    else:
        for finding in report.findings:
            output.answer(f"{finding.level} {finding.code} {finding.path}: {finding.message}")
            if finding.hint:
                output.answer(f"    {finding.hint}")
        if not report.findings:
            output.answer(f"{dataset}: no problem found")
    context.exit(0 if report.ok else 1)
