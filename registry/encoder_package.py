"""What a run of recipe `pretrain` gives to an archive, and what the release's manifest says of it.

    mreg_mae_resenc__nnsslPlans__onemmiso/
      adaptation_plan.json config.json environment.json plans.json
      fold_all/checkpoint_final.pth metrics.jsonl progress.png

Names and contents are those of nnssl's results folders where it has them, so that its users find their way. Neither the
list of images nor a path nor a subject is in it.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from registry.encoder import FOLD, METRICS, PLAN
from registry.errors import IntegrityError
from registry.files import json_text, read_json, read_object
from registry.manifest import Pretraining
from registry.scrub import json_paths, picture
from trainers.pretraining.citations import citations

if TYPE_CHECKING:
    from pathlib import Path

    from registry.model_toml import Repo
    from registry.runs import Run

DOCUMENTS = (PLAN, "environment.json", "plans.json")
FIGURE = "progress.png"
SIDES = 3  # of a volume


def contract(run: Run, repo: Repo | None) -> dict[str, Any]:
    """Return what a dataset.json says of other models' data: facts of the collection, no labels and no cases."""
    about = run.config["dataset"]
    source = repo.toml.data.source if repo else ""
    return {
        "image_orientation": about["image_orientation"],
        "channel_names": {"0": ", ".join(about["modalities"]) or "image"},
        "labels": {},
        "numTraining": about["num_training"],
        **({"source": {"address": source}} if source else {}),
    }


def collect(run: Run) -> dict[str, bytes]:
    """Return every member of the trainer folder but the checkpoint: path → bytes."""
    about = {key: value for key, value in run.config["dataset"].items() if key != "path"}
    members = {name: _json(read_json(run.path / name)) for name in DOCUMENTS}
    members["config.json"] = _json({**run.config, "dataset": about})
    members[f"{FOLD}/{METRICS}"] = "".join(f"{json.dumps(json_paths(line))}\n" for line in _lines(run)).encode()
    figure = run.path / FOLD / FIGURE
    if figure.is_file():
        members[f"{FOLD}/{FIGURE}"] = picture(figure.read_bytes(), str(figure))
    return members


def describe(run: Run) -> Pretraining:
    """Return the manifest's part on the training; raise `IntegrityError` where a file of the run does not say it."""
    plan, settings, lines = read_object(run.path / PLAN), run.config["settings"], _lines(run)
    try:
        (configuration,) = plan["pretrain_plan"]["configurations"].values()
        spacing = configuration["spacing"]
        return Pretraining(
            method=settings["method"],
            encoder=plan["architecture_plans"]["arch_class_name"],
            patch=tuple(configuration["patch_size"]),
            spacing_mm=tuple(float(side) for side in spacing) if spacing else None,
            downstream_patch=tuple(plan["recommended_downstream_patchsize"]),
            subjects=run.config["dataset"]["num_subjects"],
            modalities=tuple(run.config["dataset"]["modalities"]),
            epochs=len(lines),
            loss=_ends(lines, "loss"),
            val_loss=_ends(lines, "val_loss"),
            citations=papers(settings["method"], settings["encoder"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise IntegrityError(f"{run.path}: {PLAN} or config.json: {error}", hint="train it again") from error


def papers(method: str, encoder: str) -> tuple[str, ...]:
    """Return what is to be cited, in the order of the checkpoint's list."""
    return tuple(text for entry in citations(method, encoder) for text in entry["apa_citations"])


def _ends(lines: list[dict[str, Any]], key: str) -> tuple[float, float] | None:
    """Return a measure of the first and of the last epoch, None where one is missing or no number."""
    values = [float(lines[place][key]) for place in (0, -1) if lines and isinstance(lines[place].get(key), int | float)]
    return (values[0], values[1]) if len(values) == 2 and all(map(math.isfinite, values)) else None  # noqa: PLR2004


def _lines(run: Run) -> list[dict[str, Any]]:
    """Return the numbers of each epoch."""
    path: Path = run.path / FOLD / METRICS
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []
    except ValueError as error:
        raise IntegrityError(f"{path}: {error}", hint="remove the line that is cut off") from error
    return [line for line in lines if isinstance(line, dict)]


def _json(document: Any) -> bytes:
    return json_text(json_paths(document)).encode()
