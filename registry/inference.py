"""`mreg predict` and `mreg evaluate`: find the model, collect the cases, let the recipe's worker do the work."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from registry import classification, cropping, lesion, margins, output, workers
from registry.cases import Case, group_images, labelled_cases
from registry.classifier import is_classifier
from registry.encoder import is_encoder
from registry.errors import ConflictError, MregError, NotFoundError
from registry.files import read_object, write_json
from registry.lesion_model import is_lesion_model
from registry.model_toml import FILE_NAME, Repo, find_repo
from registry.runs import FINAL, Run, is_run, latest_run, read_run

if TYPE_CHECKING:
    from collections.abc import Sequence

RECIPE = "nnunet"
EVALUATION = "evaluation.json"


@dataclass(frozen=True, kw_only=True)
class Target:
    """A trained model on disk: a run of ours, or the trainer folder of an archive."""

    folder: Path
    run: Run | None = None

    @property
    def dataset_json(self) -> dict[str, Any]:
        """Return the model's data contract."""
        document = read_object(self.folder / "dataset.json")
        if not isinstance(document.get("channel_names"), dict) or not isinstance(document.get("labels"), dict):
            raise MregError(f"{self.folder / 'dataset.json'}: has no channel_names or no labels")
        return document

    @property
    def classes_json(self) -> dict[str, Any]:
        """Return a classifier's data contract."""
        document = read_object(self.folder / "dataset.json")
        if not isinstance(document.get("channel_names"), dict) or not document.get("classification_labels"):
            raise MregError(f"{self.folder / 'dataset.json'}: has no channel_names or no classification_labels")
        return document

    def folds(self, wanted: Sequence[str] = ()) -> list[str]:
        """Return the folds with a final checkpoint, or those that are wanted; like nnU-Net, `all` only where alone."""
        found = sorted(path.parent.name.removeprefix("fold_") for path in self.folder.glob(f"fold_*/{FINAL}"))
        if missing := sorted(set(wanted) - set(found)):
            raise NotFoundError(
                f"{self.folder}: fold {missing[0]} has no {FINAL}", hint=f"there are: {', '.join(found) or 'none'}"
            )
        chosen = list(wanted) or [fold for fold in found if fold.isdecimal()] or found
        if not chosen:
            raise NotFoundError(f"{self.folder}: no fold has a {FINAL}", hint="train to the end: mreg train")
        return sorted(set(chosen), key=lambda fold: (not fold.isdecimal(), int(fold) if fold.isdecimal() else 0))


def find_target(text: str, registry: str | None = None) -> Target:
    """Return the model that a run's folder, an unpacked archive, a model's repo or a ref names; a ref is fetched.

    A bare word is a ref, unless it is the folder of a run or of a network: a repo's working copy must not hide the
    released model of the same name.
    """
    from registry import refs

    path = Path(text)
    if is_run(path):
        return Target(folder=path, run=read_run(path))
    if (path / "plans.json").is_file():
        return Target(folder=path)
    ref = refs.parse(text)
    if isinstance(ref, refs.FileRef) and (ref.path / FILE_NAME).is_file():
        run = latest_run(find_repo(ref.path).runs)
        return Target(folder=run.path, run=run)
    from registry.download import model_for
    from registry.stores import open_store

    return Target(folder=model_for(text, open_store(registry) if isinstance(ref, refs.RepoRef) else None))


def find_predictor(text: str, registry: str | None = None) -> Target:
    """Return the model that a text names as `find_target` does; raise for an encoder, which predicts nothing."""
    target = find_target(text, registry)
    if is_encoder(target.folder):
        raise MregError(f"{text}: a pre-trained encoder, which predicts nothing", hint=f"mreg train --from {text}")
    return target


def predict(
    target: str,
    images: Sequence[str],
    out: Path,
    *,
    device: str = "auto",
    mirror: bool = False,
    folds: Sequence[str] = (),
    mask: Path | None = None,
    cord: Path | None = None,
    cord_model: str | None = None,
    registry: str | None = None,
    allow_code: bool = False,
    precision: str = "auto",
) -> list[Path]:
    """Predict images into `out`/CASE.nii.gz, each in its image's own geometry; return the files.

    `precision` of a segmentation: auto (bfloat16 on a processor that has it), native (nnU-Net's own) or bf16.
    A classifier writes `out`/CASE.json; `mask` is its region of interest, a file or a folder of CASE.nii.gz. A lesion
    model looks around the cord: `cord` is its mask or centreline, a file or a folder, or `cord_model` finds it; so does
    a segmentation model of cropped images, which takes masks only.
    """
    model = find_predictor(target, registry)
    if is_classifier(model.folder):
        return classification.predict(model.folder, images, out, folds=model.folds(folds), mask=mask, device=device)
    if mask is not None:
        raise MregError(f"--mask {mask}: {model.folder.name} takes no region of interest", hint="leave it out")
    looks_at_cord, crop = is_lesion_model(model.folder), margins.of_model(model.folder)
    if not (looks_at_cord or crop) and (cord or cord_model):
        raise MregError(f"{model.folder.name} does not look around a cord", hint="leave --cord and --cord-model out")
    cases = group_images(images, len(model.dataset_json["channel_names"]))
    if out.exists() and not out.is_dir():
        raise ConflictError(f"{out}: a file, not a folder", hint="name a folder for the results: -o DIR")
    outputs = {case.name: out / f"{case.name}.nii.gz" for case in cases}
    inputs = {image.resolve() for case in cases for image in case.images}
    for path in outputs.values():
        if path.resolve() in inputs:
            raise ConflictError(
                f"{path}: the result would replace the image itself", hint="name another folder: -o DIR"
            )
    chosen = model.folds(folds)
    job = {
        **_job(model, device, mirror=mirror, half=False, allow_code=allow_code),
        "precision": precision,
        "cases": [_entry(case, chosen, outputs[case.name]) for case in cases],
    }
    if looks_at_cord:
        answer = lesion.call(model.folder, job, cord=cord, cord_model=cord_model, registry=registry)
    elif crop:
        answer = cropping.call(job, crop, cord=cord, cord_model=cord_model, registry=registry)
    else:
        answer = workers.call(RECIPE, job)
    return [Path(path) for path in answer["files"]]


def evaluate(
    target: str,
    dataset: Path,
    *,
    split: str | None = None,
    half: bool = False,
    device: str = "auto",
    save: bool = False,
    out: Path | None = None,
    registry: str | None = None,
    allow_code: bool = False,
) -> dict[str, Any]:
    """Measure a model on the labelled cases of a raw dataset; return the content of evaluation.json.

    Of a run, the measurement is written beside its folds and into its repo's model card, unless the cases are those
    that it was trained on. `half` measures the weights as a half-precision release stores them.
    """
    model = find_predictor(target, registry)
    repo = _repo_of(model.run) if model.run else None
    if is_classifier(model.folder):
        evaluation = classification.evaluate(
            model.folder, dataset, split=classification.chosen_split(dataset, split), folds=model.folds(),
            device=device, draw=model.run is not None,
        )  # fmt: skip
        return _finish(model, repo, evaluation, out)
    _same_contract(model, dataset)
    if save and not model.run:
        raise MregError("--save keeps the predictions in the run, and a released model has none", hint="mreg predict")
    folds = model.folds()
    splits_file = (model.run.path if model.run else dataset) / "splits_final.json"
    chosen, cases = labelled_cases(dataset, split, folds, splits_file)
    if chosen == "val" and not model.run:
        output.warn(f"{splits_file} is taken for the split that the model was trained with")
    kept = model.folder / "evaluation"
    job = {
        **_job(model, device, mirror=False, half=half, allow_code=allow_code),
        "precision": "native",  # figures should not depend on the processor
        "cases": [_entry(case, case.folds, kept / f"{case.name}.nii.gz" if save else None) for case in cases],
    }
    if is_lesion_model(model.folder):
        if model.run and chosen != "train":
            job["figure"] = str(model.folder / lesion.FIGURE)
        answer = lesion.call(model.folder, lesion.with_labels(model.folder, dataset, job), registry=registry)
    elif (crop := margins.of_model(model.folder)) and not (dataset / margins.FILE).is_file():
        answer = cropping.call(job, crop, dataset=dataset, registry=registry)
    else:
        answer = workers.call(RECIPE, job)
    used = {fold for case in cases for fold in case.folds}
    evaluation = {
        "dataset": dataset.resolve().name,
        "split": chosen,
        "checkpoint": FINAL,
        "folds": [int(fold) if fold.isdecimal() else fold for fold in folds if fold in used],
        "half": half,
        **{key: answer[key] for key in ("threshold", "summary") if key in answer},
        "cases": answer["cases"],
        "mean": answer["mean"],
    }
    return _finish(model, repo, evaluation, out)


def _finish(model: Target, repo: Repo | None, evaluation: dict[str, Any], out: Path | None) -> dict[str, Any]:
    """Write an evaluation where it belongs, and return it."""
    if out:
        write_json(out, evaluation)
    if evaluation["split"] == "train":
        output.warn("these are training cases: the figures are printed, not kept as the model's")
    elif model.run:
        _keep(model.run, repo, evaluation)
    return evaluation


def _job(model: Target, device: str, *, mirror: bool, half: bool, allow_code: bool) -> dict[str, Any]:
    return {
        "kind": "predict",
        "model": str(model.folder),
        "device": device,
        "mirror": mirror,
        "half": half,
        # The code of a run has run in its training, on this user's word.
        "allow_code": allow_code or model.run is not None,
    }


def _entry(case: Case, folds: Sequence[str], out: Path | None) -> dict[str, Any]:
    return {
        "name": case.name,
        "images": [str(image) for image in case.images],
        "folds": list(folds),
        "output": str(out) if out else None,
        "reference": str(case.label) if case.label else None,
    }


def _repo_of(run: Run) -> Repo | None:
    try:
        return find_repo(run.path)
    except NotFoundError:
        return None


def _same_contract(model: Target, dataset: Path) -> None:
    """Refuse a dataset whose labels or channels mean something else than the model's."""
    if not dataset.is_dir():
        raise NotFoundError(f"{dataset}: no such dataset")
    theirs, ours = read_object(dataset / "dataset.json"), model.dataset_json
    missing = [key for key in ("labels", "channel_names", "file_ending") if key not in theirs]
    if missing:
        raise MregError(f"{dataset / 'dataset.json'}: keys are missing: {', '.join(missing)}")
    for key in ("labels", "channel_names"):
        if theirs[key] != ours[key] and (key == "labels" or len(theirs[key]) != len(ours[key])):
            raise MregError(
                f"{dataset / 'dataset.json'}: {key} = {json.dumps(theirs[key])}, "
                f"and the model has {json.dumps(ours[key])}",
                hint="evaluate on a dataset with the model's labels and channels",
            )


def _keep(run: Run, repo: Repo | None, evaluation: dict[str, Any]) -> None:
    """Write the measurement into the run and the repo's model card."""
    write_json(run.path / EVALUATION, evaluation)
    output.say(f"written to {run.path / EVALUATION}")
    if repo:
        from registry.card import write_metrics
        from registry.model_facts import started_from
        from registry.release_facts import start_of

        of_tests = "labels" in evaluation and evaluation["split"] == "test"
        shown = {**evaluation, "start": started_from(start_of(run))}
        write_metrics(repo.root, shown, run.path / classification.FIGURES if of_tests else run.path)
