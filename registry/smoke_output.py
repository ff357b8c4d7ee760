"""What an archive gives for one image, run as SCT does.

The archive is unpacked into a temporary folder, its trainer folder is found by SCT's rules, the image is turned to
image_orientation, and all folds are averaged over half-overlapping patches, without mirroring. This takes place in a
process of its own, and a trainer_class.py of the archive is not executed. Models that SCT does not run: a classifier
gives probabilities; the middle of the image is its region of interest, and the cord of a lesion model.
"""

from __future__ import annotations

import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from registry import classifier, lesion_model, workers
from registry.errors import MregError
from registry.files import read_object
from registry.runs import FINAL
from registry.unpack import model_folder, unpack_safely

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from registry.manifest import ReferenceImage
    from registry.reference import Probabilities

RECIPE = "nnunet"
CASE = "case"  # what a classifier's image is called
BEST = "checkpoint_best.pth"


class UnusableArchiveError(MregError):
    """The archive cannot be run."""


@dataclass(frozen=True)
class Output:
    """What a model gave."""

    labels: NDArray[Any] | None  # of a segmentation
    probabilities: Probabilities | None  # of a classifier
    image: ReferenceImage
    seconds: float
    peak_memory_bytes: int


def predict(archive: Path, image: Path | None, device: str, *, allow_code: bool = False) -> Output:
    """Unpack an archive and predict one image with all of its folds."""
    from registry.inference import Target
    from registry.reference_image import trial_image, write_region
    from registry.volumes import read_volume

    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mreg-smoke-") as work:
        with unusable(archive, work):
            model = model_folder(unpack_safely(archive, Path(work, "archive")))
            _take_best(model)
            target = Target(folder=model)
            classifies = classifier.is_classifier(model)
            contract = target.classes_json if classifies else target.dataset_json
            channels, folds = len(contract["channel_names"]), target.folds()
            if not (model / "plans.json").is_file():
                raise MregError(f"{model / 'plans.json'}: no such file")
        chosen = trial_image(image, Path(work), model)
        if classifies:
            with unusable(archive, work):
                answer = _classify(model, chosen.path, channels, folds, device)
            found = {label: dict(about["probabilities"]) for label, about in answer["cases"][CASE].items()}
            return Output(None, found, chosen.about, time.monotonic() - start, answer["peak_memory_bytes"])
        out = Path(work, "labels.nii.gz")
        case = {"name": chosen.path.name, "images": [str(chosen.path)] * channels, "folds": folds, "output": str(out)}
        # One thread: a sum over several depends on the number of cores, and so would the reference.
        job = {"kind": "predict", "model": str(model), "device": device, "mirror": False, "half": False, "threads": 1}
        with unusable(archive, work):
            if lesion_model.is_lesion_model(model):
                case["cord"] = str(write_region(chosen.path, Path(work)))
                answer = workers.call(lesion_model.RECIPE, {**job, "cases": [case]})
            else:
                answer = workers.call(RECIPE, {**job, "allow_code": allow_code, "cases": [case]})
            labels = read_volume(out).array
    return Output(labels, None, chosen.about, time.monotonic() - start, answer["peak_memory_bytes"])


def _classify(model: Path, image: Path, channels: int, folds: list[str], device: str) -> dict[str, Any]:
    """Ask a classifier of one image, with a region of interest where it wants one."""
    from registry.reference_image import write_region

    has_roi = bool(read_object(model / "plans.json").get("roi_classes"))
    with tempfile.TemporaryDirectory(prefix="mreg-smoke-") as work:
        mask = str(write_region(image, Path(work))) if has_roi else None
        case = {"name": CASE, "images": [str(image)] * channels, "mask": mask, "output": None}
        about = {"kind": "predict", "model": str(model), "device": device, "folds": folds, "threads": 1}
        return workers.call(classifier.RECIPE, {**about, "cases": [case]})


@contextmanager
def unusable(archive: Path, work: str) -> Iterator[None]:
    """Say of the archive, and not of the temporary folder, what is wrong with it."""
    try:
        yield
    except MregError as error:
        message = error.message.removeprefix(f"{archive}: ").replace(f"{work}/archive/", "").replace(f"{work}/", "")
        raise UnusableArchiveError(message, hint=error.hint) from error


def _take_best(model: Path) -> None:
    """Take the best checkpoints where there are no final ones, as SCT does; the folder is ours."""
    best = list(model.glob(f"fold_*/{BEST}"))
    if best and not any(model.glob(f"fold_*/{FINAL}")):
        for path in best:
            path.rename(path.with_name(FINAL))
