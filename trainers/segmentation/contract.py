"""The documents of a model's folder: what it takes and what it gives."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from trainers.core.errors import TrainingError
from trainers.core.files import read_json
from trainers.data.orientation import Reorientation

if TYPE_CHECKING:
    from pathlib import Path

    from trainers.core.progress import Progress

DEFAULT_ORIENTATION = "LPI"  # what SCT takes for a model that does not say


def read_document(folder: Path, name: str) -> dict[str, Any]:
    """Read plans.json or dataset.json of a model's folder."""
    try:
        document = read_json(folder / name)
    except (OSError, ValueError) as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else error
        raise TrainingError(f"{folder / name}: {reason}", hint="is that the folder of a model?") from error
    if not isinstance(document, dict):
        raise TrainingError(f"{folder / name}: expected an object, found {json.dumps(document)[:40]}")
    return document


def image_orientation(folder: Path, dataset_json: dict[str, Any], progress: Progress) -> str:
    """Return the orientation that the network was trained in, in SCT's letters."""
    code = dataset_json.get("image_orientation")
    if code is None:
        progress.say(f"warning: {folder / 'dataset.json'} has no image_orientation: {DEFAULT_ORIENTATION} is assumed")
        return DEFAULT_ORIENTATION
    try:
        Reorientation.to(str(code), np.eye(4))
    except ValueError as error:
        raise TrainingError(
            f"{folder / 'dataset.json'}: image_orientation: {error}", hint='for example "image_orientation": "RPI"'
        ) from None
    return str(code)
