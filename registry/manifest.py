"""`mreg-release.json`, the one asset of a release that says what the others are.

It is made with the archive and never changes after publication. Everything in it can be read from the run, the archive
and the repo: there is no clock and no host in it, so the same input gives the same bytes.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from registry.errors import IntegrityError, NotFoundError
from registry.files import json_text
from registry.problems import describe

if TYPE_CHECKING:
    from pathlib import Path

MANIFEST_NAME = "mreg-release.json"
SCHEMA_VERSION = 1
LARGEST_MAP = 1 << 16  # characters of a reference's label map
SCHEMA_ID = "https://raw.githubusercontent.com/ivadomed/mreg/main/schemas/manifest.schema.json"


def _whole(value: Any) -> Any:
    """Read 1.0 as 1: to JSON they are the same number."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Text = Annotated[str, Field(min_length=1)]
Count = Annotated[int, Field(ge=0), BeforeValidator(_whole)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", min_length=64, max_length=64)]
Commit = Annotated[str, Field(pattern=r"^([0-9a-f]{40}|[0-9a-f]{64})$", max_length=64)]
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+@-]*$", max_length=255)]
Grid = Annotated[tuple[Count, ...], Field(min_length=3, max_length=3)]
Interval = Annotated[tuple[float, ...], Field(min_length=2, max_length=2)]
Spacing = Annotated[tuple[float, ...], Field(min_length=3, max_length=3)]
Orientation = Annotated[str, Field(pattern=r"^[RLAPIS]{3}$", min_length=3, max_length=3)]


class Part(BaseModel):
    """An object of the manifest: every key is required, no other is allowed, nothing is converted."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, regex_engine="python-re", protected_namespaces=()
    )


class AssetEntry(Part):
    """A file of the release, other than the manifest."""

    name: FileName = Field(title="name of the asset")
    size: Count = Field(title="size in bytes")
    sha256: Sha256 = Field(title="SHA-256 of the bytes")


class Member(Part):
    """A file in an archive."""

    path: Text = Field(title="path in the archive")
    size: Count = Field(title="size in bytes")
    sha256: Sha256 = Field(title="SHA-256 of the bytes")


class Data(Part):
    """What the model was trained on."""

    name: Text = Field(title="nnU-Net's name of the dataset")
    id: Count = Field(title="nnU-Net's number of the dataset")
    hash: str = Field(title="SHA-256 over the training files, empty where it is not known")
    num_training: Count = Field(title="number of training cases")
    num_test: Count | None = Field(title="number of test cases")
    licence: str = Field(title="licence of the data")
    source: dict[str, str | Count | None] = Field(title="where the data come from, with the commit of a Git data set")


class Weights(Part):
    """The network's weights, which all folds have alike."""

    parameters: Count = Field(title="number of parameters")
    dtype: Text = Field(title="type of most weights")
    optimizer: bool = Field(title="whether a training can be continued from it")


class ClassMetrics(Part):
    """How well a classifier tells one class of a label from the others."""

    auc: float | None = Field(title="area under the ROC curve, null where it is not defined")
    interval: Interval | None = Field(title="its 95 % interval")
    positive: Count = Field(title="number of cases of the class")
    negative: Count = Field(title="number of cases of the other classes")


class Metrics(Part):
    """What `mreg evaluate` measured with the weights that are in the archive."""

    dataset: str = Field(title="dataset of the evaluation")
    split: str = Field(title="part of the dataset")
    cases: Count = Field(title="number of cases")
    folds: tuple[Count | str, ...] = Field(title="folds that voted")
    mean: dict[str, dict[str, float | None]] = Field(title="mean over the cases: label, measure, value")
    classes: dict[str, dict[str, ClassMetrics]] = Field({}, title="of a classifier: label, class, figures")


class Pretraining(Part):
    """How an encoder was trained on images without labels, and what is to be cited for it."""

    method: Text = Field(title="method of pre-training")
    encoder: Text = Field(title="architecture, as the adaptation plan names it")
    patch: Grid = Field(title="voxels of what the encoder saw")
    spacing_mm: Spacing | None = Field(title="voxel size of the images, null where they kept theirs")
    downstream_patch: Grid = Field(title="patch that is recommended for fine-tuning")
    subjects: Count = Field(title="number of subjects")
    modalities: tuple[str, ...] = Field(title="contrasts of the images")
    epochs: Count = Field(title="epochs of the training")
    loss: tuple[float, float] | None = Field(title="training loss of the first and the last epoch")
    val_loss: tuple[float, float] | None = Field(title="the same on subjects that were not trained on")
    citations: tuple[str, ...] = Field(title="papers to cite")


class Start(Part):
    """What the training started from in place of random weights."""

    name: str | None = Field(title="repository of the model, null where it was no release")
    tag: str | None = Field(title="tag of the release")
    asset: str | None = Field(title="name of the archive")
    sha256: Sha256 | None = Field(title="SHA-256 of the archive")
    checkpoint: Sha256 = Field(title="SHA-256 of the checkpoint")


class Source(Part):
    """The commit of the model's repo that the archive was made at."""

    commit: Commit = Field(title="Git commit")
    dirty: bool = Field(title="whether files differed from the commit")


class LabelMap(Part):
    """The labelled part of a label map: the box around it, as runs of equal voxels."""

    start: Grid = Field(title="first voxel of the box")
    shape: Grid = Field(title="size of the box")
    runs: Annotated[str, Field(pattern=r"^[A-Za-z0-9+/]*={0,2}$", max_length=LARGEST_MAP)] = Field(
        title="runs in C order, in base64: a byte for the value, then the length in base 128, low digits first"
    )


class ReferenceImage(Part):
    """The image that a reference was made with; no voxel of it is kept."""

    kind: Annotated[str, Field(pattern=r"^(mni152|file)$", max_length=6)] = Field(
        title="mni152: a piece of the public template, or a file that whoever packed the archive named"
    )
    shape: Grid = Field(title="number of voxels along x, y and z")
    sha256: Sha256 = Field(title="SHA-256 of shape, affine and voxels")


class Reference(Part):
    """What the packed model gave for one image, to find out later whether an archive still gives it."""

    image: ReferenceImage = Field(title="image that it was made with")
    sha256: Sha256 = Field(title="SHA-256 of shape and voxels of the label map, or of a classifier's answer")
    voxels: dict[str, Count] = Field(title="number of voxels of each label value but 0")
    map: LabelMap | None = Field(title="label map, null where it would be too large")
    probabilities: dict[str, dict[str, float]] | None = Field(
        None, title="of a classifier, instead of a label map: label, class, probability"
    )
    versions: dict[str, str] = Field(title="versions of the software that made it")


class ModelEntry(Part):
    """One archive and the model in it."""

    asset: FileName = Field(title="name of the archive's asset")
    variant: str = Field(title="word between repo and tag in the archive's name")
    layout: Annotated[str, Field(pattern=r"^(root|dataset)$", max_length=7)] = Field(title="layout of the archive")
    trainer_folder: Text = Field(title="nnU-Net's name of the folder with plans.json")
    trainer: Text = Field(title="trainer class")
    plans: Text = Field(title="name of the plans")
    configuration: Text = Field(title="nnU-Net configuration")
    folds: tuple[Count | str, ...] = Field(title="folds in the archive", min_length=1)
    recipe: Text = Field(title="recipe that trained it")
    orientation: Orientation | None = Field(
        title="orientation of the images, in SCT's letters; null for an encoder whose images kept theirs"
    )
    channels: dict[str, str] = Field(title="number and name of each channel", min_length=1)
    labels: dict[str, Count | tuple[Count, ...]] = Field(title="name and values of each label; none for an encoder")
    sct_suffixes: tuple[str, ...] = Field(title="what SCT appends to the names of its output files")
    data: Data = Field(title="training data")
    weights: Weights = Field(title="weights")
    metrics: Metrics | None = Field(title="evaluation, null where these weights were not evaluated")
    versions: dict[str, str] = Field(title="versions of the software that trained it")
    source: Source | None = Field(title="commit of the repo, null outside Git")
    members: tuple[Member, ...] = Field(title="files in the archive", min_length=1)
    reference: Reference | None = Field(None, title="output for one image, null where none was made")
    pretraining: Pretraining | None = Field(None, title="training of an encoder, null for every other model")
    start: Start | None = Field(None, title="what the training started from, null where from random weights")

    @model_validator(mode="after")
    def _only_an_encoder_lacks_labels(self) -> Self:
        if self.pretraining is None and not (self.labels and self.orientation):
            raise ValueError("labels or orientation are missing, and only a pre-trained encoder has none")
        return self


class Manifest(Part):
    """The whole file."""

    schema_version: Annotated[int, Field(ge=SCHEMA_VERSION, le=SCHEMA_VERSION), BeforeValidator(_whole)] = Field(
        title="version of the schema"
    )
    name: Text = Field(title="name of the repository")
    name_fields: dict[str, tuple[str, ...]] = Field(title="what the name says, with defaults; empty where invalid")
    tag: Text = Field(title="tag of the release")
    description: str = Field(title="the model in a sentence")
    licence: str = Field(title="licence of the model")
    mreg_version: Text = Field(title="version of mreg that made the archives")
    assets: tuple[AssetEntry, ...] = Field(title="assets of the release", min_length=1)
    models: tuple[ModelEntry, ...] = Field(title="archives and the models in them", min_length=1)

    @property
    def archives(self) -> list[str]:
        """Return the names of the archives."""
        return [model.asset for model in self.models]

    @property
    def parts(self) -> tuple[ModelEntry, ...]:
        """Return the archives that are one model together, a fold each; none where each is a model of its own."""
        alike = {(base_variant(m.variant), m.layout, m.trainer_folder, m.data.name) for m in self.models}
        folds = [m.folds[0] for m in self.models if m.variant == fold_variant(base_variant(m.variant), m.folds[0])]
        whole = len(alike) == 1 and len(set(folds)) == len(self.models) == sum(len(m.folds) for m in self.models)
        return self.models if whole and len(folds) > 1 else ()

    def sha256_of(self, name: str) -> str:
        """Return the digest of an asset, "" for one that the manifest does not know."""
        return next((asset.sha256 for asset in self.assets if asset.name == name), "")

    def model(self, asset: str) -> ModelEntry | None:
        """Return what is known of an archive."""
        return next((model for model in self.models if model.asset == asset), None)

    def text(self) -> str:
        """Return the file's text."""
        return json_text(self.model_dump(mode="json"))


def fold_variant(variant: str, fold: int | str) -> str:
    """Return the word in the name of an archive that holds one fold only.

    >>> fold_variant("axial", 3)
    'axial.fold3'
    """
    return f"{variant}.fold{fold}" if variant else f"fold{fold}"


def base_variant(variant: str) -> str:
    """Return the word of a model whose folds may lie in archives of their own.

    >>> base_variant("axial.fold3"), base_variant("fold0")
    ('axial', '')
    """
    return re.sub(r"(^|\.)fold(\d+|all)$", "", variant)


def parse(data: bytes, where: str = MANIFEST_NAME) -> Manifest:
    """Read a manifest's bytes; raise `IntegrityError`, which begins with `where`, for anything that is none."""
    try:
        document = json.loads(data, parse_constant=_refuse)
        manifest = Manifest.model_validate_json(json.dumps(document))
    except ValidationError as error:
        raise IntegrityError(f"{where}: {describe(error)}", hint=_hint(document)) from error
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"{where}: not JSON: {error}") from error
    names = [asset.name for asset in manifest.assets]
    if len({name.casefold() for name in names}) < len(names) or not set(manifest.archives) <= set(names):
        raise IntegrityError(f"{where}: assets {', '.join(names)} do not fit archives {', '.join(manifest.archives)}")
    return manifest


def read(path: Path) -> Manifest:
    """Read a manifest; raise `NotFoundError` or `IntegrityError`."""
    try:
        return parse(path.read_bytes(), str(path))
    except FileNotFoundError:
        raise NotFoundError(f"{path}: no such file", hint="mreg package writes it") from None


def schema() -> dict[str, Any]:
    """Return the JSON Schema, which schemas/manifest.schema.json holds for other programs."""
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": SCHEMA_ID}
    return {**head, **Manifest.model_json_schema(), "title": MANIFEST_NAME}


def _hint(document: Any) -> str:
    version = document.get("schema_version") if isinstance(document, dict) else None
    newer = isinstance(version, int | float) and version > SCHEMA_VERSION
    return "made by a newer mreg: update yours" if newer else ""


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number in JSON")
