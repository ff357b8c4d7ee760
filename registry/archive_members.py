"""What a run gives to an archive: which files, and what is left of them when paths, hosts and cases are gone."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from registry import margins, orientation, output
from registry.classification_dataset import is_classification
from registry.errors import ConflictError, IntegrityError, MregError
from registry.files import json_text, read_json, read_object
from registry.runs import FINAL
from registry.scrub import Scrubber, json_paths, picture, scrubber
from registry.splits import read_splits
from registry.trainer_code import FILE_NAME, portable

if TYPE_CHECKING:
    from pathlib import Path

    from registry.runs import Run

FIGURES = ("roc.png", "reliability.png", "confusion.png", "predictions.png")  # of a classifier, of a lesion model
CROP_FILE = margins.FILE


def require_finished(run: Run) -> tuple[Path, ...]:
    """Return the folds to release: those that are finished. Raise `MregError` for a run that cannot be released."""
    if not run.complete:
        wanted = {f"fold_{fold}" for fold in run.config["settings"]["folds"]}
        missing = sorted(wanted - {fold.name for fold in run.finished_folds})
        raise MregError(
            f"{run.path}: {', '.join(missing)} has no {FINAL} yet",
            hint="train to the end: mreg train goes on where it stopped",
        )
    folds = run.finished_folds
    if len(folds) > 1 and any(fold.name == "fold_all" for fold in folds):
        raise MregError(
            f"{run.path}: fold_all beside other folds, which no program loads",
            hint="keep either: move the folder fold_all or the others out of the run",
        )
    for fold in run.folds:
        if fold not in folds:
            output.warn(f"{fold.name} is not finished and is left out")
    return folds


def read_dataset_json(run: Run) -> dict[str, Any]:
    """Return the run's dataset.json; raise `MregError` where it does not say what whoever runs the model must know."""
    path = run.path / "dataset.json"
    document = read_json(path)
    if not isinstance(document, dict):
        raise IntegrityError(f"{path}: not an object")
    said = "classification_labels" if is_classification(document) else "labels"
    for key in (said, "channel_names"):
        if not isinstance(document.get(key), dict | list) or not document[key]:
            raise IntegrityError(f"{path}: no {key}")
    code = document.get("image_orientation")
    if not orientation.is_valid(code):
        said = "no image_orientation" if code is None else f"image_orientation = {code!r} is no orientation"
        raise MregError(
            f"{path}: {said}",
            hint='add the orientation of the training images in SCT\'s letters, for example "image_orientation": "RPI"',
        )
    return document


def collect(run: Run, folds: tuple[Path, ...], dataset_json: dict[str, Any]) -> dict[str, bytes]:
    """Return every member of the trainer folder but the checkpoints: path → bytes."""
    scrub = learn_names(run, run.finished_folds)  # of all, so that archives of one fold each have the same files
    members = {
        "dataset.json": _json(scrub.dataset(dataset_json)),
        "plans.json": packed_plans(run),
    }
    fingerprint = run.path / "dataset_fingerprint.json"
    if fingerprint.is_file():
        members[fingerprint.name] = _json(json_paths(read_json(fingerprint)))
    trainer = run.path / FILE_NAME
    if trainer.is_file():
        text = _source(trainer)
        scrub.code(text, str(trainer))
        members[FILE_NAME] = portable(text, run.config["trainer"], str(trainer)).encode()
    for name in FIGURES:
        if (run.path / name).is_file():
            members[name] = picture((run.path / name).read_bytes(), str(run.path / name))
    for fold in folds:
        for name, data in _fold_files(fold, scrub):
            members[f"{fold.name}/{name}"] = data
    return members


def packed_plans(run: Run) -> bytes:
    """Return plans.json as it is packed, without paths of this machine."""
    return _json(json_paths(read_json(run.path / "plans.json")))


def crop_metadata(root: Path) -> bytes:
    """Return the margins that SCT crops with, for a file beside the trainer folder; raise `MregError` if incomplete."""
    path = root / CROP_FILE
    document = read_json(path)
    if wrong := margins.problems(document):
        raise MregError(f"{path}: {'; '.join(wrong)}", hint="SCT's sc_crop write-metadata writes the file")
    return _json(json_paths(document))


def crop_metadata_of(run: Run, root: Path | None, *, cropped: bool) -> bytes | None:
    """Return the margins for an archive: those that the run was trained with, else the repo's where it says so.

    Raises `ConflictError` where the repo's file has other margins than the training had.
    """
    if not (run.path / CROP_FILE).is_file():
        return crop_metadata(root) if root and cropped else None
    if root and (root / CROP_FILE).is_file():
        trained, said = (margins.read(folder / CROP_FILE).pads_mm for folder in (run.path, root))
        if trained != said:
            raise ConflictError(
                f"{root / CROP_FILE}: other margins than {run.path} was trained with",
                hint="remove the file: the run has its own",
            )
    return crop_metadata(run.path)


def learn_names(run: Run, folds: tuple[Path, ...]) -> Scrubber:
    """Learn the names of cases, hosts and users from the run itself."""
    splits = run.path / "splits_final.json"
    texts, documents = [], []
    for fold in folds:
        texts += [log.read_bytes().decode("utf-8", "replace") for log in fold.glob("training_log_*.txt")]
        if (fold / "debug.json").is_file():
            document = read_object(fold / "debug.json")
            documents.append(document)
            texts.append(json.dumps(document, ensure_ascii=False))
    return scrubber(read_splits(splits) if splits.is_file() else [], documents, texts)


def _fold_files(fold: Path, scrub: Scrubber) -> list[tuple[str, bytes]]:
    found = []
    debug, figure = fold / "debug.json", fold / "progress.png"
    if debug.is_file():
        found.append((debug.name, _json(scrub.debug(read_object(debug)))))
    if figure.is_file():
        found.append((figure.name, picture(figure.read_bytes(), str(figure))))
    return found + [(log.name, scrub.log(log.read_bytes())) for log in sorted(fold.glob("training_log_*.txt"))]


def _source(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise IntegrityError(f"{path}: not UTF-8: {error}") from error


def _json(document: Any) -> bytes:
    return json_text(document).encode()
