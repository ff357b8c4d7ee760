"""What a trained classifier says of images; the command line and Python programs come through the same code.

`predict` is the call that challenge platforms make, with files in the order of the model's channels.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from trainers.classification.dataset import read_dataset
from trainers.classification.network import Classifier
from trainers.classification.validation import BINARY, Judged, report
from trainers.core.environment import choose_device, cpu_count, peak_memory
from trainers.core.errors import TrainingError
from trainers.core.files import write_json
from trainers.core.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trainers.classification.network import Probabilities
    from trainers.classification.plan import Plan
    from trainers.classification.preprocess import PreparedCase

Answer = list[float | list[float]]  # by label: P(second class) of two, else one probability a class


def predict(
    artifact_path: str,
    ordered_image_files: Sequence[str],
    roi_segmentation_file: str | None = None,
    *,
    folds: Sequence[str] = (),
    device: str = "cpu",
) -> Answer:
    """Classify one case with the model in `artifact_path`.

    Returns an element for each label, in the order of `classification_labels`: the probability of the second class
    where there are two, else the list of all probabilities, which sum to 1. Images are NIfTI or MetaImage, one a
    channel, in the order of `modality`. The model may lie in a folder of its own in there, as in an archive. Raises
    `TrainingError` for another number of images, and for a mask where the model was trained without, or none where it
    was trained with one.
    """
    model = Classifier.load(_model_in(Path(artifact_path)), folds, choose_device(device))
    mask = Path(roi_segmentation_file) if roi_segmentation_file is not None else None
    return answer_of(model(model.read([Path(file) for file in ordered_image_files], mask)))


def _model_in(folder: Path) -> Path:
    """Return the folder with the plan: this one, or the only one in it that has one."""
    inside = [plan.parent for plan in folder.glob("*/plans.json")]
    return inside[0] if len(inside) == 1 and not (folder / "plans.json").is_file() else folder


def answer_of(probabilities: Probabilities) -> Answer:
    """Return probabilities in the form of challenge platforms."""
    return [label[1] if len(label) == BINARY else list(label) for label in probabilities]


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Run a prediction job; return the `cases`, each with an entry a label.

    Job keys: model (folder), device, folds, cases (each name, images, mask or null, output or null).
    """
    torch.set_num_threads(job.get("threads") or cpu_count())
    model = Classifier.load(Path(job["model"]), job["folds"], choose_device(job["device"]))
    progress, files, found = Progress(), [], {}
    with progress.bar("predict", len(job["cases"])) as advance:
        for entry in job["cases"]:
            case = _read(model, entry["images"], entry["mask"], progress, entry["name"])
            found[entry["name"]] = document = _document(model.plan, model(case))
            if entry["output"]:
                write_json(Path(entry["output"]), document)
                files.append(entry["output"])
            advance(entry["name"])
    return {"files": files, "cases": found, "peak_memory_bytes": peak_memory()}


def _read(model: Classifier, images: Sequence[str], mask: str | None, progress: Progress, name: str) -> PreparedCase:
    case = model.read([Path(file) for file in images], Path(mask) if mask else None)
    if any(case.cut):
        lost = " x ".join(map(str, case.cut))
        progress.say(f"{name}: larger than what the model was trained on: {lost} voxels are cut off around the middle")
    return case


def _document(plan: Plan, probabilities: Probabilities) -> dict[str, Any]:
    """Return by label the answer with its name, and the probability of each one."""
    return {
        label.name: {
            "answer": label.values[max(range(len(found)), key=found.__getitem__)],
            "probabilities": dict(zip(label.values, found, strict=True)),
        }
        for label, found in zip(plan.labels, probabilities, strict=True)
    }


def evaluate(job: dict[str, Any]) -> dict[str, Any]:
    """Judge a model on the labelled cases of a dataset's part; return what `validation.report` gives.

    Job keys: model, device, folds, dataset (folder), part (training or test), figures (folder to draw into, or null).
    """
    torch.set_num_threads(job.get("threads") or cpu_count())
    model = Classifier.load(Path(job["model"]), job["folds"], choose_device(job["device"]))
    dataset = read_dataset(Path(job["dataset"]), job["part"])
    theirs = tuple((label.name, label.values) for label in dataset.labels)
    ours = tuple((label.name, label.values) for label in model.plan.labels)
    if theirs != ours:
        raise TrainingError(
            f"{dataset.folder}: labels {theirs}, and the model has {ours}", hint="evaluate on the model's own labels"
        )
    labelled = [case for case in dataset.cases if any(target is not None for target in case.targets)]
    if not labelled:
        raise TrainingError(f"{dataset.folder}: no labelled case in {job['part']}", hint="choose another --split")
    progress, judged = Progress(), []
    with progress.bar("evaluate", len(labelled)) as advance:
        for case in labelled:
            seen = _read(model, [str(path) for path in case.images], str(case.mask or ""), progress, case.name)
            judged.append(
                Judged(name=case.name, fold="all", group=case.group, targets=case.targets, probabilities=model(seen))
            )
            advance(case.name)
    document = report(model.plan, judged, seed=0)
    if job.get("figures"):
        from trainers.classification import figures  # with matplotlib, which a prediction does without

        folder = Path(job["figures"])
        folder.mkdir(parents=True, exist_ok=True)
        figures.draw(folder, model.plan, judged, document)
    return {**document, "folds": list(model.nets)}
