"""Rules on a run: what `mreg package` would refuse, said before."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from registry import margins
from registry.checks import at_hand, model, privacy
from registry.checks.model_files import ModelFiles
from registry.checks.rules import Draft, line_of, read_object, rule
from registry.classifier import is_classifier
from registry.encoder import TRAINERS as ENCODERS
from registry.encoder import is_encoder
from registry.errors import MregError
from registry.lesion_model import is_lesion_model
from registry.runs import Run, read_run
from registry.tree import DiskTree

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from registry.findings import Finding


@dataclass
class RunFiles:
    """A run's folder."""

    path: Path
    tree: DiskTree

    @cached_property
    def run(self) -> Run | MregError:
        """Return the run, or what is wrong with its config.json."""
        try:
            return read_run(self.path)
        except MregError as error:
            return error


@rule("RUN001")
def config_is_readable(files: RunFiles) -> Iterator[Draft]:
    """config.json says trainer, plans, configuration, settings, dataset and repo."""
    if isinstance(files.run, MregError):
        yield "config.json", files.run.message.removeprefix(f"{files.path / 'config.json'}: "), files.run.hint


@rule("RUN002")
def folds_are_finished(files: RunFiles) -> Iterator[Draft]:
    """Every fold that was asked for has its final checkpoint."""
    if isinstance(files.run, MregError):
        return
    finished = {fold.name for fold in files.run.finished_folds}
    for fold in files.run.config["settings"]["folds"]:
        if f"fold_{fold}" not in finished:
            hint = "train to the end: mreg train goes on where it stopped"
            yield f"fold_{fold}", "not finished: no checkpoint_final.pth", hint


@rule("RUN003")
def orientation_is_the_configs(files: RunFiles) -> Iterator[Draft]:
    """dataset.json has the orientation that the run was trained with."""
    if isinstance(files.run, MregError):
        return
    trained = files.run.config["dataset"].get("image_orientation")
    written = (read_object(files.tree, "dataset.json") or {}).get("image_orientation")
    if trained and written and trained != written:
        message = f"image_orientation is {written}, and config.json says that the run was trained in {trained}"
        line = line_of(files.tree, "dataset.json", "image_orientation")
        yield "dataset.json", message, f'"image_orientation": "{trained}"', line


@rule("RUN004")
def margins_are_lengths(files: RunFiles) -> Iterator[Draft]:
    """crop_metadata.json, which a model of cropped images has, gives all six margins in mm."""
    if files.tree.exists(margins.FILE):
        for wrong in margins.problems(read_object(files.tree, margins.FILE)):
            yield margins.FILE, wrong, "all six paddings, in mm: crop the dataset again, then train"


RULES = [config_is_readable, folds_are_finished, orientation_is_the_configs, margins_are_lengths]


def findings(path: Path) -> Iterator[Finding]:
    """Yield all findings on a run, or on a trainer folder that was unpacked from an archive."""
    tree = DiskTree(path)
    unpacked = path.name.startswith(ENCODERS)  # whose archives have a config.json, too
    if unpacked or not tree.exists("config.json"):
        yield from model.findings(ModelFiles(tree, "", path.name, released=True))
        yield from privacy.findings(tree)
        return
    files = RunFiles(path, tree)
    # Their images are turned to one orientation, whatever theirs is.
    at_hands = [] if is_classifier(path) or is_lesion_model(path) or is_encoder(path) else at_hand.RUN_RULES
    for entry in (*RULES, *at_hands):
        yield from entry.run(files)
    folder, name = (files.run.trainer_folder, str(files.run.config["repo"])) if isinstance(files.run, Run) else ("", "")
    yield from model.findings(ModelFiles(tree, "", folder, released=False), name)
