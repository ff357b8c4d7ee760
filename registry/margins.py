"""crop_metadata.json: the margins around the cord that a model's images were cropped with, in mm.

SCT looks for it beside the trainer folder. A run has it beside its dataset.json, a cropped dataset likewise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from registry.errors import IntegrityError
from registry.files import read_json, write_json

if TYPE_CHECKING:
    from pathlib import Path

FILE = "crop_metadata.json"
FACES = ("superior", "inferior", "left", "right", "anterior", "posterior")
DEFAULT_MM = (40.0, 100.0, 15.0, 15.0, 15.0, 22.0)  # sc-crop's own
FROM_LABEL, FROM_MASKS, FROM_MODEL, FROM_DETECTOR = "label", "masks", "model", "detector"


@dataclass(frozen=True, kw_only=True)
class Margins:
    """What a file says; `source` is where the training's boxes come from, "" where it does not say."""

    pads_mm: dict[str, float]  # face → mm
    source: str = ""
    cord_label: str = ""  # the label that was the cord
    cord_model: str = ""  # the model that found it


def problems(document: Any) -> list[str]:
    """Return what is wrong with the six margins: one that is missing, or is no length."""
    said = document if isinstance(document, dict) else {}
    keys = [f"pad_{face}" for face in FACES]
    missing = [key for key in keys if key not in said]
    wrong = [f"{key} is {said[key]!r}, not a length in mm" for key in keys if key in said and not _is_length(said[key])]
    return [*([f"lacks {', '.join(sorted(missing))}"] if missing else []), *wrong]


def read(path: Path) -> Margins:
    """Read a file; raise `IntegrityError` where one of the six margins is missing or wrong."""
    document = read_json(path)
    if wrong := problems(document):
        raise IntegrityError(f"{path}: {'; '.join(wrong)}", hint="six margins in mm: pad_superior, pad_inferior, …")
    texts = {key: str(document.get(key) or "") for key in ("cord_label", "cord_model")}
    pads = {face: float(document[f"pad_{face}"]) for face in FACES}
    return Margins(pads_mm=pads, source=str(document.get("crop_source") or ""), **texts)


def of_model(folder: Path) -> Margins | None:
    """Return the margins of a run, or of a trainer folder whose archive has them; None of a model of whole images."""
    is_run = (folder / "config.json").is_file()
    path = (folder if is_run else folder.parent) / FILE
    return read(path) if path.is_file() else None


def keep(dataset: Path, run: Path) -> None:
    """Keep the margins of a cropped dataset with what was trained on it."""
    if (dataset / FILE).is_file():
        read(dataset / FILE)
        write_json(run / FILE, read_json(dataset / FILE))


def _is_length(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0
