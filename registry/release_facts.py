"""The manifest's entry of one archive, from what lies in the run and the repo."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import ValidationError

from registry import encoder, encoder_package, git, output
from registry.classification_dataset import is_classification, label_classes
from registry.errors import IntegrityError
from registry.files import read_json
from registry.labels import output_suffixes
from registry.lesion_model import PLANS
from registry.manifest import ClassMetrics, Data, Metrics, ModelEntry, Source, Start, Weights
from registry.problems import describe

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from registry.checkpoints import Checkpoint
    from registry.manifest import Member
    from registry.model_toml import Repo
    from registry.runs import Run


class Place(NamedTuple):
    """Where the model lies in the release."""

    asset: str  # name of the archive
    variant: str
    layout: str


def describe_model(
    run: Run,
    dataset_json: dict[str, Any],
    weights: Mapping[str, Checkpoint],
    place: Place,
    half: bool,
    repo: Repo | None,
    members: tuple[Member, ...],
) -> ModelEntry:
    """Return the entry; `weights` are the packed checkpoints by fold folder, `members` what the archive holds.

    Raises `IntegrityError` where a file of the run has another content than it should.
    """
    first = next(iter(weights.values()))
    is_encoder = run.config["recipe"] == encoder.RECIPE
    metrics = None if is_encoder else _metrics(run, half=half)
    try:
        return ModelEntry(
            **place._asdict(),
            trainer_folder=run.trainer_folder,
            trainer=run.config["trainer"],
            plans=run.config["plans"],
            configuration=run.config["configuration"],
            folds=tuple(sorted((_fold(name) for name in weights), key=lambda fold: (str(type(fold)), fold))),
            recipe=run.config["recipe"],
            orientation=dataset_json["image_orientation"],
            channels={str(key): str(name) for key, name in dataset_json["channel_names"].items()},
            labels=_labels(dataset_json),
            sct_suffixes=_sct_suffixes(run, dataset_json),
            data=data_of(run, dataset_json),
            weights=Weights(parameters=first.parameters, dtype=first.dtype, optimizer="optimizer_state" in first.keys),
            metrics=metrics,
            versions=_versions(run),
            source=_source(repo.root) if repo else None,
            members=members,
            pretraining=encoder_package.describe(run) if is_encoder else None,
            start=start_of(run),
        )
    except ValidationError as error:
        raise IntegrityError(f"{run.path}: {describe(error)}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise IntegrityError(f"{run.path}: config.json, dataset.json or environment.json: {error}") from error


def _sct_suffixes(run: Run, dataset_json: dict[str, Any]) -> tuple[str, ...]:
    """Return the endings of the files that SCT writes; of models that SCT does not load, none."""
    if is_classification(dataset_json) or run.config["plans"] in (PLANS, encoder.PLANS):
        return ()
    return tuple(output_suffixes(dataset_json))


def start_of(run: Run) -> Start | None:
    """Return what the weights began with, None where that was chance."""
    settings = run.config["settings"]
    if settings.get("from_scratch"):
        return None
    known = run.config.get("start")
    if known is None and settings.get("start_from"):  # a run of before releases could be named
        known = {"name": None, "tag": None, "asset": None, "sha256": None, "checkpoint": settings["start_from"]}
    return Start(**known) if known else None


def _fold(name: str) -> int | str:
    text = name.removeprefix("fold_")
    return int(text) if text.isdecimal() else text


def _labels(dataset_json: dict[str, Any]) -> dict[str, int | tuple[int, ...]]:
    """Return every label with its value, or the values of its region or its classes, in the order of the file."""
    if is_classification(dataset_json):
        return {name: tuple(range(classes)) for name, classes in label_classes(dataset_json).items()}
    return {
        name: tuple(int(item) for item in value) if isinstance(value, list) else int(value)
        for name, value in dataset_json["labels"].items()
    }


def data_of(run: Run, dataset_json: dict[str, Any]) -> Data:
    """Return what a run was trained on, with what its dataset.json says of the data."""
    config = run.config["dataset"]
    source = dataset_json.get("source")
    number = dataset_json.get("numTest")
    return Data(
        name=config["name"],
        id=config["id"],
        hash=config.get("hash", ""),
        num_training=config.get("num_training", dataset_json.get("numTraining", 0)),
        num_test=number if isinstance(number, int) else None,
        licence=str(dataset_json.get("licence", dataset_json.get("license", ""))),
        source={k: v for k, v in source.items() if isinstance(v, str | int)} if isinstance(source, dict) else {},
    )


def _metrics(run: Run, *, half: bool) -> Metrics | None:
    """Return the means of evaluation.json, if it is about the weights that are packed."""
    path = run.path / "evaluation.json"
    if not path.is_file():
        output.warn(f"{run.path.name} was not evaluated: the release will say nothing of its quality (mreg evaluate)")
        return None
    document = read_json(path)
    try:
        if bool(document["half"]) != half:
            said, flag = ("full precision", " --half") if half else ("16-bit weights", "")
            output.warn(
                f"{run.path.name} was evaluated with {said}, not with what is packed: its figures are left out "
                f"(mreg evaluate{flag})"
            )
            return None
        return metrics_of(document)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise IntegrityError(f"{path}: not what mreg evaluate writes: {error}", hint="evaluate again") from error


def metrics_of(evaluation: dict[str, Any]) -> Metrics:
    """Return what the manifest says of an evaluation; raise `KeyError`, `TypeError` or `ValueError` for none."""
    return Metrics(
        dataset=evaluation["dataset"],
        split=evaluation["split"],
        cases=len(evaluation["cases"]),
        folds=tuple(evaluation["folds"]),
        mean=evaluation["mean"],
        classes=_class_metrics(evaluation),
    )


def _class_metrics(evaluation: dict[str, Any]) -> dict[str, dict[str, ClassMetrics]]:
    """Return what an evaluation says of each class of a classifier; nothing for other models."""
    return {
        label: {
            name: ClassMetrics(
                auc=about["auc"],
                interval=tuple(about["interval"]) if about.get("interval") else None,
                positive=about["positive"],
                negative=about["negative"],
            )
            for name, about in figures["classes"].items()
        }
        for label, figures in evaluation.get("labels", {}).items()
    }


def _versions(run: Run) -> dict[str, str]:
    path = run.path / "environment.json"
    if not path.is_file():
        return {}
    document = read_json(path)
    return {"python": document["python"], **document["packages"]}


def _source(root: Path) -> Source | None:
    """Return the commit of the repo's working copy, None where it has none."""
    if not (root / ".git").exists():
        return None
    commit = git.answer(root, "rev-parse", "--verify", "--quiet", "HEAD")
    return Source(commit=commit, dirty=git.answer(root, "status", "--porcelain") != "") if commit else None
