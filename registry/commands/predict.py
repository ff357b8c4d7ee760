"""`mreg predict`."""

from __future__ import annotations

from pathlib import Path

import click

from registry import output
from registry.commands._options import device_option, json_option, out_option, registry_option


@click.command("predict")
@click.argument("target", metavar="REF|RUN")
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True)
@out_option("DIR", "Folder of the results.", required=True)
@device_option("auto", "Where to run it.")
@click.option("--mirror", is_flag=True, help="Average over mirrored images: up to 8 times slower.")
@click.option("--fold", "folds", multiple=True, metavar="F", help="Use this fold only; repeat for several.")
@click.option(
    "--mask",
    metavar="FILE|DIR",
    type=click.Path(path_type=Path),
    help="Region of interest for a classifier: of one image, or DIR/CASE.nii.gz.",
)
@click.option(
    "--cord",
    metavar="FILE|DIR",
    type=click.Path(path_type=Path),
    help="Cord mask (.nii.gz) or centreline (.csv) for a lesion model: of one image, or DIR/CASE.nii.gz.",
)
@click.option("--cord-model", metavar="NAME@TAG", help="Model that finds the cord for a lesion model.")
@click.option("--allow-code", is_flag=True, help="Run the model's own trainer_class.py where its network needs it.")
@click.option(
    "--precision",
    type=click.Choice(["auto", "native", "bf16"]),
    default="auto",
    show_default=True,
    help="Type that the network computes in; auto: bf16 on a processor that has it; native: nnU-Net's own.",
)
@registry_option
@json_option
def command(
    target: str,
    images: tuple[str, ...],
    out: Path,
    device: str,
    mirror: bool,
    folds: tuple[str, ...],
    mask: Path | None,
    cord: Path | None,
    cord_model: str | None,
    allow_code: bool,
    precision: str,
    registry: str | None,
    as_json: bool,
) -> None:
    """Run a model on images.

    Each image is turned to the orientation that the model was trained in; its label map DIR/CASE.nii.gz lies exactly
    on the image. Several channels of a case: CASE_0000.nii.gz CASE_0001.nii.gz, or joined by commas. A classifier
    writes DIR/CASE.json with the probabilities of every class, and takes the region of interest that it was trained
    with as --mask. A lesion model looks around the cord: --cord says where it is, --cord-model finds it. Prints the
    files.

    \b
    Examples:
      mreg predict model_seg_sc_t2 sub-01_T2w.nii.gz -o predictions
      mreg predict model_seg_sc_t2@r20260101 *.nii.gz -o predictions --device cuda
      mreg predict model_classif_sc_t2 scan.mha -o answers --mask cord.nii.gz
      mreg predict model_seg_lesion_t2 sub-01_T2w.nii.gz -o lesions \\
          --cord-model model_seg_sc_t2@r20260101
      mreg predict runs/3d_fullres-1a2b3c4d mt0.nii.gz,mt1.nii.gz -o predictions
    """
    from registry import inference

    files = inference.predict(
        target, images, out, device=device, mirror=mirror, folds=folds, mask=mask, cord=cord,
        cord_model=cord_model, registry=registry, allow_code=allow_code, precision=precision,
    )  # fmt: skip
    if as_json:
        output.document({"files": [str(path) for path in files]})
    else:
        for path in files:
            output.answer(path)
