"""`mreg data crop`: images around the cord for models that the Spinal Cord Toolbox feeds with cropped images."""

from __future__ import annotations

from pathlib import Path

import click

from registry import margins, output
from registry.commands._options import dataset_id_option, json_option, registry_option


@click.command("crop")
@click.argument("source", metavar="DATASET", type=click.Path(path_type=Path))
@click.argument("destination", type=click.Path(path_type=Path))
@dataset_id_option
@click.option("--name", default="", metavar="NAME", help="Name of the cropped dataset [default: the dataset's own].")
@click.option(
    "--cord-label", default="sc", metavar="LABEL", show_default=True, help="Label that says where the cord is."
)
@click.option("--cord", metavar="DIR", type=click.Path(path_type=Path), help="Cord masks instead: DIR/CASE.nii.gz.")
@click.option("--cord-model", metavar="NAME@TAG", help="Model that finds the cord instead.")
@click.option("--detector", is_flag=True, help="SCT's own detector instead (the package sc_crop).")
@click.option(
    "--pads",
    "pads_mm",
    type=click.FloatRange(min=0),
    nargs=len(margins.FACES),
    default=margins.DEFAULT_MM,
    show_default=True,
    metavar="MM " * (len(margins.FACES) - 1) + "MM",
    help="Margins around the cord: superior inferior left right anterior posterior.",
)
@registry_option
@json_option
def crop(
    source: Path,
    destination: Path,
    number: int,
    name: str,
    cord_label: str,
    cord: Path | None,
    cord_model: str | None,
    detector: bool,
    pads_mm: tuple[float, ...],
    registry: str | None,
    as_json: bool,
) -> None:
    """Crop a raw dataset to boxes around the cord.

    Images and label maps are cut as SCT cuts an image before it runs a model that was released with
    crop_metadata.json. The file is written here, and goes into the runs and releases of what is trained on the dataset.
    Label voxels outside of a box are counted and told. Prints the cropped dataset's folder.

    \b
    Examples:
      mreg data crop data/raw/Dataset510_Lesions data/raw --dataset-id 511
      mreg data crop data/raw/Dataset510_Lesions data/raw --dataset-id 511 \\
          --pads 40 100 15 15 15 22
      mreg data crop data/raw/Dataset510_Lesions data/raw --dataset-id 511 \\
          --detector
    """
    from registry.cropping import crop_dataset

    folder = crop_dataset(
        source, destination, number=number, name=name, pads_mm=pads_mm, cord_label=cord_label, cord=cord,
        cord_model=cord_model, detector=detector, registry=registry,
    )  # fmt: skip
    if as_json:
        output.document({"dataset": str(folder)})
    else:
        output.answer(folder)


@click.command("index")
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("table", type=click.Path(path_type=Path))
@click.option(
    "--lesion-label",
    default="lesion",
    metavar="LABEL",
    show_default=True,
    help="Label of the lesions in a raw dataset.",
)
@click.option("--cord-label", default="sc", metavar="LABEL", show_default=True, help="Label of the cord there.")
@json_option
def index(source: Path, table: Path, lesion_label: str, cord_label: str, as_json: bool) -> None:
    """Write the table of a lesion dataset, CSV or JSON.

    SOURCE is a BIDS tree with masks under derivatives/labels, or a raw dataset of nnU-Net. The table's columns are
    subject, session, contrast, image, lesion, cord and split; its paths are relative to it. Change it as you like, then
    give it to mreg data import. Prints the table's path.

    \b
    Examples:
      mreg data index ~/data/bids index.csv
      mreg data index data/raw/Dataset510_Lesions index.json --cord-label cord
      mreg data import index.csv data/raw --dataset-id 510
    """
    from registry.lesion_table import write_table

    rows = write_table(source, table, lesion_label, cord_label)
    if as_json:
        output.document({"table": str(table), "cases": rows})
    else:
        output.say(f"{rows} cases")
        output.answer(table)
