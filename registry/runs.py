"""The folder of one training, which is where the heavy half and the light half meet.

runs/3d_fullres-1a2b3c4d/            name: configuration and a hash of settings and data
  config.json                        recipe, resolved settings, trainer and plans names, dataset facts, repo name
  dataset.json plans.json dataset_fingerprint.json splits_final.json trainer_class.py (custom trainers)
  environment.json                   versions, device, seed, dataset hash
  train.log
  fold_0/                            checkpoint_latest.pth, checkpoint_final.pth, metrics.jsonl, progress.png,
                                     training_log_*.txt, debug.json, validation/
  evaluation.json                    what `mreg evaluate` measured
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from registry import output
from registry.errors import IntegrityError, MregError, NotFoundError
from registry.files import read_json, read_object
from registry.near import meant_path

if TYPE_CHECKING:
    from pathlib import Path

FINAL = "checkpoint_final.pth"
# What everybody takes from config.json without a second look.
NEEDED = {
    "recipe": str, "trainer": str, "plans": str, "configuration": str, "settings": dict, "dataset": dict, "repo": str,
}  # fmt: skip
MOST = 500  # characters of a message


@dataclass(frozen=True)
class Run:
    """A run folder and its config.json."""

    path: Path
    config: dict[str, Any]

    @property
    def trainer_folder(self) -> str:
        """Return nnU-Net's name for it, e.g. nnUNetTrainer__nnUNetPlans__3d_fullres."""
        return f"{self.config['trainer']}__{self.config['plans']}__{self.config['configuration']}"

    @property
    def folds(self) -> tuple[Path, ...]:
        """Return the folders of the folds, in order."""
        return tuple(sorted(p for p in self.path.glob("fold_*") if p.is_dir()))

    @property
    def finished_folds(self) -> tuple[Path, ...]:
        """Return the folders of the folds that have a final checkpoint."""
        return tuple(fold for fold in self.folds if (fold / FINAL).is_file())

    @property
    def complete(self) -> bool:
        """Whether every fold that was asked for has its final checkpoint."""
        wanted = {f"fold_{fold}" for fold in self.config["settings"]["folds"]}
        return wanted <= {fold.name for fold in self.finished_folds}


def is_run(path: Path) -> bool:
    """Whether a folder is a run."""
    return (path / "config.json").is_file() and (path / "plans.json").is_file()


def read_run(path: Path) -> Run:
    """Read a run's config.json; raise `NotFoundError` where there is none."""
    if not path.is_dir():
        raise NotFoundError(f"{path}: no such run", hint=meant_path(path) or "mreg train prints the folder of its run")
    config = read_object(path / "config.json")
    if missing := NEEDED.keys() - config.keys():
        raise MregError(f"{path / 'config.json'}: keys are missing: {', '.join(sorted(missing))}")
    wrong = [f"{key} is {config[key]!r}" for key, kind in NEEDED.items() if not isinstance(config[key], kind)]
    folds = [] if wrong else config["settings"].get("folds")
    if not isinstance(folds, list) or not all(isinstance(fold, int | str) for fold in folds):
        wrong.append(f"settings.folds is {folds!r}")
    if wrong:
        raise IntegrityError(f"{path / 'config.json'}: {', '.join(wrong)}"[:MOST], hint="train again")
    return Run(path, config)


def plans_name(folder: Path) -> str:
    """Return what the plans of a run, or of the folder of a released model, are called; "" where there are none."""
    path = folder / "plans.json"
    document = read_json(path) if path.is_file() else {}
    return str(document.get("plans_name", "")) if isinstance(document, dict) else ""


def latest_run(folder: Path) -> Run:
    """Return the newest complete run below a repo's runs folder; one that cannot be read is passed over."""
    found = []
    for path in sorted(folder.glob("*")):
        try:
            found += [read_run(path)] if is_run(path) else []
        except MregError as error:
            output.warn(f"passed over: {error.message}")
    complete = [run for run in found if run.complete]
    if not complete:
        state = f"{len(found)} runs, none complete" if found else "no run"
        raise NotFoundError(f"{folder}: {state}", hint="train first: mreg train")
    return max(complete, key=lambda run: max((f / FINAL).stat().st_mtime for f in run.finished_folds))
