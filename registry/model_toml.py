"""`model.toml`, the file that marks the root of a model's repo and says everything that a person decides."""

from __future__ import annotations

import json
import tomllib
from datetime import date, time
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from registry import names
from registry.errors import MregError, NotFoundError
from registry.near import meant_path
from registry.problems import describe
from trainers.catalog import RECIPES

if TYPE_CHECKING:
    from pathlib import Path

FILE_NAME = "model.toml"


class Section(BaseModel):
    """A table of model.toml: unknown keys are errors, and no value is converted."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class ModelSection(Section):
    """Who the model is."""

    name: str = Field(description="the repository's name, after the naming convention")
    description: str = Field("", description="one sentence for the registry's list")
    licence: str = Field("MIT", description="SPDX identifier")
    authors: tuple[str, ...] = Field((), description="names as they should be cited")
    citation: str = Field("", description="paper or DOI to cite")
    previous_names: tuple[str, ...] = Field((), description="names that this repository had before")
    exempt: str = Field(
        "",
        description="why the name may break the convention, e.g. that it was published before",
        validate_default=True,
    )

    @field_validator("exempt")
    @classmethod
    def _name_is_valid_or_exempt(cls, value: str, info: ValidationInfo) -> str:
        result = names.parse(info.data.get("name", "model_sc"))  # another error says that there is no name
        if result.status == "invalid" and not value:
            problem = ", ".join(result.errors)
            raise ValueError(f"{problem}" + (f"; did you mean {result.suggestion}?" if result.suggestion else ""))
        return value


class DataSection(Section):
    """What the model learns from."""

    dataset: str = Field(
        "", description="nnU-Net raw dataset, relative to the repo, e.g. data/raw/Dataset501_SpinalCordT2w"
    )
    source: str = Field(
        "", description="where the images come from: address and, for a Git(-annex) data set, its commit"
    )


class ReleaseSection(Section):
    """How releases are tagged and packed."""

    tags: Literal["date", "semver"] = Field("date", description="rYYYYMMDD, or vX.Y.Z for a repo that says so")
    layout: Literal["root", "dataset"] = Field(
        "root", description="trainer folder at the archive's root, or inside DatasetNNN_Name/ (3D Slicer)"
    )
    variant: str = Field("", pattern=r"^[A-Za-z0-9.]*$", description="word between repo and tag in the archive's name")
    per_fold: bool = Field(False, description="an archive of each fold, for models whose folds do not fit in one")
    accept: tuple[Annotated[str, Field(pattern=r"^CHANGE\d{3}$")], ...] = Field(
        (), description="breaking changes since the last release that are meant, e.g. CHANGE003: mreg check --against"
    )
    signers: tuple[str, ...] = Field(
        (), description="public keys that may sign a release, as in a .pub file: ssh-ed25519 AAAA… name"
    )


class SctSection(Section):
    """What the Spinal Cord Toolbox should call it."""

    task: str = Field("", description="SCT's task name, e.g. sc_t2")
    cropped_image: bool = Field(False, description="SCT crops around the cord first (needs crop_metadata.json)")


class PathsSection(Section):
    """Folders of the repo, relative to model.toml."""

    data: str = Field("data", description="raw and preprocessed data; not in Git")
    runs: str = Field("runs", description="one folder a training; not in Git")
    dist: str = Field("dist", description="archives with their manifests; not in Git")


class TrainSection(BaseModel):
    """The recipe and its settings; the settings are checked by the recipe's own model."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)

    recipe: str = Field("nnunet", description="bundled trainer")

    @model_validator(mode="after")
    def _settings_fit_the_recipe(self) -> TrainSection:
        if self.recipe not in RECIPES:
            raise ValueError(f"recipe {self.recipe!r} is unknown; there are: {', '.join(RECIPES)}")
        RECIPES[self.recipe].settings.model_validate_json(json.dumps(self.settings), strict=True)
        return self

    @property
    def settings(self) -> dict[str, Any]:
        """Return the recipe's settings as written."""
        return dict(self.model_extra or {})


class ModelToml(Section):
    """The whole file."""

    model: ModelSection
    data: Annotated[DataSection, Field(default_factory=DataSection)]
    train: Annotated[TrainSection, Field(default_factory=TrainSection)]
    release: Annotated[ReleaseSection, Field(default_factory=ReleaseSection)]
    sct: Annotated[SctSection, Field(default_factory=SctSection)]
    paths: Annotated[PathsSection, Field(default_factory=PathsSection)]


class Repo:
    """A model's working copy: its root folder and its model.toml."""

    def __init__(self, root: Path, toml: ModelToml) -> None:
        self.root = root
        self.toml = toml
        self.name = toml.model.name
        self.data = root / toml.paths.data
        self.runs = root / toml.paths.runs
        self.dist = root / toml.paths.dist

    @property
    def dataset(self) -> Path:
        """Return the raw dataset's folder: the one that model.toml names, else the only one in data/raw."""
        if self.toml.data.dataset:
            return self.root / self.toml.data.dataset
        found = sorted(path for path in (self.data / "raw").glob("Dataset*") if path.is_dir())
        if len(found) == 1:
            return found[0]
        state = f"{self.data / 'raw'} holds {len(found)}" if found else "no dataset was imported"
        raise NotFoundError(
            f"{self.root / FILE_NAME}: [data] names no dataset and {state}",
            hint="mreg data import SRC data/raw --dataset-id N; of several, name one under [data] dataset",
        )


def read(path: Path) -> ModelToml:
    """Read and check a model.toml; all of its problems are one error."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise NotFoundError(f"{path}: no such file", hint="create a repo: mreg new model_seg_sc_t2") from None
    except UnicodeDecodeError as error:
        raise MregError(f"{path}: not TOML: {error}") from error
    return validate(parse(text, str(path)), str(path))


def parse(text: str, where: str = FILE_NAME) -> dict[str, Any]:
    """Return what TOML says, whatever it is about; raise `MregError` for what is none."""
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise MregError(f"{where}: not TOML: nested too deeply") from error
    except ValueError as error:  # also for a number of thousands of digits
        raise MregError(f"{where}: not TOML: {error}") from error


def validate(document: dict[str, Any], where: str = FILE_NAME) -> ModelToml:
    """Check a parsed model.toml, to the same verdict as its JSON Schema (but for the name, which no schema knows)."""
    try:
        # As JSON: there a list may become a tuple, and still `true` is no number and "5" none either.
        return ModelToml.model_validate_json(json.dumps(_plain(document, where)))
    except ValidationError as error:
        raise MregError(f"{where}: " + describe(error, _tables()), hint="docs/model-toml.md lists every key") from error


def _plain(value: Any, where: str) -> Any:
    """Return a TOML value as JSON has it, where 1.0 and 1 are one number."""
    if isinstance(value, dict):
        return {key: _plain(item, where) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item, where) for item in value]
    if isinstance(value, date | time):
        raise MregError(f"{where}: {value}: a date or time, and no key takes one", hint="write it in quotes")
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _tables() -> dict[str, set[str]]:
    """Return the keys of each table; those of [train] are the settings of all recipes."""
    tables = {table: _fields(field.annotation) for table, field in ModelToml.model_fields.items()}
    tables["train"] |= {key for recipe in RECIPES.values() for key in recipe.settings.model_fields}
    return {"": set(tables), **tables}


def _fields(section: Any) -> set[str]:
    return set(section.model_fields) if isinstance(section, type) and issubclass(section, BaseModel) else set()


def find_repo(start: Path) -> Repo:
    """Return the repo that holds `start`, which may be the root, a folder below it, or a run."""
    start = start.resolve()
    if not start.exists():
        raise NotFoundError(f"{start}: no such folder", hint=meant_path(start) or "go into a model's repo")
    for folder in (start, *start.parents):
        if (folder / FILE_NAME).is_file():
            return Repo(folder, read(folder / FILE_NAME))
    raise NotFoundError(
        f"{start}: no {FILE_NAME} here or above",
        hint="go into a model's repo, or create one: mreg new model_seg_sc_t2",
    )
