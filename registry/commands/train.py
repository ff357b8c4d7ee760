"""`mreg train`."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from registry import output
from registry.commands._options import device_option, json_option, registry_option

if TYPE_CHECKING:
    from registry.model_toml import Repo
    from registry.runs import Run


def _folds(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> list[int | str]:
    """Read numbers of folds, or all."""
    del context
    for value in values:
        if value != "all" and not value.isdecimal():
            raise click.BadParameter(f"{value!r} is neither a number nor all", param_hint=parameter.opts[0])
    return [int(value) if value.isdecimal() else value for value in values]


@click.command("train")
@click.argument("repo", type=click.Path(path_type=Path), default=".")
@click.option(
    "--fold",
    "folds",
    multiple=True,
    metavar="F",
    callback=_folds,
    help="Fold to train, or all; repeat for several [default: model.toml].",
)
@device_option(None, "Where to train [default: model.toml, else auto].")
@click.option(
    "--gpus", type=click.IntRange(min=1), metavar="N", default=1, help="GPUs of this machine for one training."
)
@click.option(
    "--launcher",
    type=click.Choice(["local", "slurm"]),
    default="local",
    show_default=True,
    help="Train here, or in a Slurm job that is queued again until the training is done.",
)
@click.option(
    "--from",
    "start",
    metavar="REF|RUN|FILE",
    help="Start from a pre-trained encoder: a release (NAME@TAG), an archive, a run, or a checkpoint, nnssl's too.",
)
@click.option("--from-scratch", is_flag=True, help="With --from: the same training without the pre-trained weights.")
@click.option(
    "--as",
    "recipe",
    type=click.Choice(["nnunet"]),
    help="Of recipe lesion: train nnU-Net on images that are cropped around the cord, as SCT crops them.",
)
@click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change a setting of [train]; repeat for several.",
)
@click.option("--max-time", "max_minutes", type=float, metavar="MINUTES", help="Stop then; the same command goes on.")
@click.option("--restart", is_flag=True, help="Start anew; the earlier run is kept under another name.")
@click.option("--validation-only", is_flag=True, help="Validate finished folds of a classifier again; train nothing.")
@registry_option
@json_option
def command(
    repo: Path,
    folds: list[int | str],
    device: str | None,
    gpus: int,
    launcher: str,
    start: str | None,
    from_scratch: bool,
    recipe: str | None,
    max_minutes: float | None,
    assignments: tuple[str, ...],
    restart: bool,
    validation_only: bool,
    registry: str | None,
    as_json: bool,
) -> None:
    """Train a model with the recipe of its model.toml.

    Plans, preprocesses (once), trains and validates. A training that was killed goes on where it stopped when the same
    command is run again. SIGTERM, SIGUSR1 and Ctrl-C let it finish its step and save; a second Ctrl-C ends it at once.
    Prints the run's folder. What --from names in a registry is fetched and verified as by mreg fetch.

    \b
    Examples:
      mreg train                               # in a model's repo
      mreg train --fold 0 --fold 1 --device cuda
      mreg train --set configuration=2d --set epochs=100
      mreg train --from model_pretrain_spine_resencl@r20261121
      mreg train --from ../model_pretrain_sc/runs/pretrain-mae-resenc-1a2b3c4d
      mreg train --max-time 230                # in a job of four hours
      mreg train --as nnunet --set epochs=500  # a lesion model for SCT
      mreg train --launcher slurm --set slurm.partition=gpu
    """
    from registry import training
    from registry.model_toml import find_repo

    overrides: dict[str, Any] = dict(training.parse_assignment(text) for text in assignments)
    if folds:
        overrides["folds"] = folds
    if device:
        overrides["device"] = device
    if start:
        overrides["start_from"] = str(Path(start).resolve()) if Path(start).exists() else start
    if from_scratch:
        overrides["from_scratch"] = True
    wanted = {key.removeprefix("slurm."): overrides.pop(key) for key in list(overrides) if key.startswith("slurm.")}
    if launcher == "slurm":
        if validation_only or recipe:
            raise click.UsageError(f"{'--as' if recipe else '--validation-only'} is for --launcher local")
        chosen = {"gpus": gpus, "restart": restart, "registry": registry}
        _submit(find_repo(repo), overrides, wanted, chosen, max_minutes=max_minutes, as_json=as_json)
        return
    if wanted:
        raise click.UsageError(f"--set slurm.{next(iter(wanted))} is for --launcher slurm")
    working = find_repo(repo)
    if recipe:
        from registry.cropping import as_nnunet

        working, overrides = as_nnunet(working, overrides)
    run, answer = training.train(
        working,
        overrides,
        gpus=gpus,
        restart=restart,
        max_minutes=max_minutes,
        validation_only=validation_only,
        registry=registry,
    )
    if as_json:
        output.document({"run": str(run.path), "complete": run.complete, **answer})
        return
    from registry import run_summary

    for line in run_summary.lines(run):
        output.say(line)
    output.answer(run.path)
    _tell_next(find_repo(repo), run, cropped=bool(recipe))


def _tell_next(repo: Repo, run: Run, *, cropped: bool) -> None:
    """Say how the run is measured; an encoder is not."""
    if run.config["recipe"] == "pretrain":
        output.next_step("mreg check .", "mreg release --dry-run")
        return
    dataset = repo.dataset if cropped else repo.root / run.config["dataset"]["path"]
    words = (shlex.quote(os.path.relpath(path)) for path in (run.path, dataset))
    output.next_step(f"mreg evaluate {' '.join(words)}", "mreg check .", "mreg release --dry-run")


def _submit(
    repo: Any,
    overrides: dict[str, Any],
    wanted: dict[str, Any],
    chosen: dict[str, Any],
    *,
    max_minutes: float | None,
    as_json: bool,
) -> None:
    """Put the training into Slurm's queue and say where it will be seen."""
    from registry import slurm

    if max_minutes is not None:
        raise click.UsageError("--max-time is for --launcher local; a Slurm job has --set slurm.time=HH:MM:SS")
    submitted = slurm.submit(repo, overrides, wanted, **chosen)
    output.say(f"job {submitted.job} is in the queue: squeue -j {submitted.job}; it writes to {submitted.log}")
    if as_json:
        output.document({"run": str(submitted.run), "job": submitted.job, "log": str(submitted.log)})
    else:
        output.answer(submitted.run)
