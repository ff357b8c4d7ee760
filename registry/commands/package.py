"""`mreg package`."""

from __future__ import annotations

from pathlib import Path

import click

from registry import output
from registry.commands._options import json_option, out_option


@click.command("package")
@click.argument("run", type=click.Path(path_type=Path), required=False)
@click.option("--tag", metavar="TAG", help="Tag of the release [default: today's date, rYYYYMMDD].")
@out_option("DIR", "Folder [default: dist/TAG in the repo].")
@click.option(
    "--layout",
    type=click.Choice(["root", "dataset"]),
    help="Trainer folder at the archive's root, or inside DatasetNNN_Name/ (3D Slicer) [default: model.toml].",
)
@click.option("--variant", metavar="WORD", help="Word between name and tag of the archive [default: model.toml].")
@click.option("--keep-optimizer", is_flag=True, help="Keep what continuing the training needs (twice the size).")
@click.option("--half", is_flag=True, help="Store the weights as 16-bit floats (half the size).")
@click.option(
    "--per-fold/--one-archive",
    default=None,
    help="An archive of each fold, where all of them are over GitHub's 2 GiB [default: model.toml].",
)
@click.option("--no-reference", is_flag=True, help="Do not run the archive for the manifest's reference output.")
@click.option(
    "--reference-image",
    metavar="FILE",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Image for the reference output; only its SHA-256 is kept [default: a piece of the MNI152 template].",
)
@click.option("--wheel", is_flag=True, help="Of a classifier: a Python package with the model and what runs it, too.")
@click.option("--container", is_flag=True, help="Of a classifier: also the folder of a container around that package.")
@json_option
def command(
    run: Path | None,
    tag: str | None,
    out: Path | None,
    layout: str | None,
    variant: str | None,
    keep_optimizer: bool,
    half: bool,
    per_fold: bool | None,
    no_reference: bool,
    reference_image: Path | None,
    wheel: bool,
    container: bool,
    as_json: bool,
) -> None:
    """Build the release archive of a run.

    RUN is the newest complete run of the repo, unless it is given. The archive holds every finished fold, with
    checkpoints that execute nothing when they are loaded, and no paths, hosts or lists of cases. Beside it lies its
    manifest, mreg-release.json. The same run gives the same bytes.

    With --half measure what is shipped: mreg evaluate RUN DATASET --half. Figures that were measured with other weights
    are left out of the manifest, with a warning.

    Where torch is installed, the archive is run on a small public image, and the manifest keeps what it gave, for
    mreg check ARCHIVE --run.

    With --wheel a classifier becomes a Python package as well, named after the model: its predict(artifact_path,
    ordered_image_files, roi_segmentation_file=None) needs no mreg, no network and the pinned versions only. --container
    adds what challenge platforms build: Dockerfile, entry script and task_config.json.

    \b
    Examples:
      mreg package                         # the newest complete run, as of today
      mreg package runs/3d_fullres-1a2b3c4d --tag r20261121 --half
      mreg package --layout dataset --variant slicer    # a second archive
      mreg package --wheel --container     # a classifier for a challenge platform
    """
    from registry import packaging, wheels

    if no_reference and reference_image:
        raise click.UsageError("--no-reference and --reference-image exclude each other")
    if wheel or container:
        wheels.require_classifier(run)
    package = packaging.package(
        run,
        tag=tag,
        out=out,
        layout=layout,
        variant=variant,
        keep_optimizer=keep_optimizer,
        half=half,
        per_fold=per_fold,
        reference=not no_reference,
        reference_image=reference_image,
    )
    made_wheel = wheels.make_wheel(package, container=container) if wheel or container else None
    if as_json:
        output.document(package.as_json() | (made_wheel.as_json() if made_wheel else {}))
    else:
        for made in package.archives:
            output.say(f"{made.size / 1e6:.1f} MB, SHA-256 {made.sha256}" + ("" if made.created else ", unchanged"))
            output.answer(made.path)
        if made_wheel:
            output.say(
                f"wheel: {made_wheel.path.stat().st_size / 1e6:.1f} MB, needs {', '.join(made_wheel.requirements)}"
            )
            output.answer(made_wheel.path)
            if made_wheel.container:
                output.answer(made_wheel.container)
        output.next_step("mreg release --dry-run" + f" --tag {tag}" * bool(tag))
