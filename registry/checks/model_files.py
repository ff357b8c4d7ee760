"""The files of a model, as the rules see them: a trainer folder, in an archive or as a run."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from registry import checkpoints, classifier, encoder, lesion_model
from registry.checks import contract, trainer
from registry.checks.rules import line_of, read_object
from registry.errors import MregError
from registry.trainer_code import FILE_NAME

if TYPE_CHECKING:
    from registry.checkpoints import Checkpoint, Contents
    from registry.manifest import ModelEntry
    from registry.tree import Tree
    from registry.weights import Weights

FINAL, BEST = "checkpoint_final.pth", "checkpoint_best.pth"
CHECKPOINTS = (".pth", ".pt")


@dataclass
class ModelFiles:
    """A trainer folder at `prefix` of a tree ("" or a path that ends with a slash)."""

    tree: Tree
    prefix: str
    folder: str  # TRAINER__PLANS__CONFIGURATION
    released: bool  # whether strangers get these files
    entries: tuple[str, ...] = ()  # of an archive: its names as they stand, those of empty folders among them
    weights: dict[str, Weights] = field(default_factory=dict)  # what is known of checkpoints' bytes already
    entry: ModelEntry | None = None  # what a manifest says of the model

    @cached_property
    def files(self) -> list[str]:
        """Return the paths inside the folder."""
        return [p.removeprefix(self.prefix) for p in self.tree.files() if p.startswith(self.prefix)]

    @cached_property
    def dataset_json(self) -> dict[str, Any] | None:
        """Return dataset.json."""
        return read_object(self.tree, f"{self.prefix}dataset.json")

    @cached_property
    def plans(self) -> dict[str, Any] | None:
        """Return plans.json."""
        return read_object(self.tree, f"{self.prefix}plans.json")

    @cached_property
    def folds(self) -> dict[str, set[str]]:
        """Return fold → names of its files; SCT takes whatever begins with fold_ for one, an empty folder, a file."""
        found: dict[str, set[str]] = {}
        empty = [name.removeprefix(self.prefix) for name in self.entries if name.startswith(self.prefix)]
        for path in (*self.files, *empty):
            top, _, rest = path.partition("/")
            if top.startswith("fold_"):
                found.setdefault(top, set()).update({rest} - {""})
        return found

    @cached_property
    def strangers(self) -> list[str]:
        """Return the final checkpoints in folders that are no fold: SCT sees them when it chooses what to load."""
        found = [path.split("/") for path in self.files if path.count("/") == 1 and not path.startswith((".", "fold_"))]
        return sorted("/".join(parts) for parts in found if parts[1] == FINAL)

    @cached_property
    def contents(self) -> dict[str, Contents | MregError]:
        """Return path → parsed checkpoint, or why there is none; nothing is executed.

        Of what strangers get every checkpoint counts, of a run the final ones: the latest may be half written.
        """
        found: dict[str, Contents | MregError] = {}
        wanted = [path for path in self.files if path.endswith(CHECKPOINTS)]
        if not self.released:
            wanted = [f"{fold}/{FINAL}" for fold, names in self.folds.items() if FINAL in names]
        for path in map(self.at, wanted):
            try:
                with self.tree.open(path) as file:
                    found[path] = checkpoints.read_contents(file)
            except MregError as error:
                found[path] = error
        return found

    @property
    def parsed(self) -> dict[str, Contents]:
        """Return the checkpoints that could be parsed, whatever they hold."""
        return {path: found for path, found in self.contents.items() if not isinstance(found, MregError)}

    @cached_property
    def checkpoints(self) -> dict[str, Checkpoint | MregError]:
        """Return path → description of nnU-Net's checkpoint, or why there is none."""
        found: dict[str, Checkpoint | MregError] = {}
        for path, contents in self.contents.items():
            try:
                found[path] = contents if isinstance(contents, MregError) else contents.describe()
            except MregError as error:
                found[path] = error
        return found

    def weights_of(self, path: str) -> Weights:
        """Return what a described checkpoint's bytes say, read now unless they are known; raise `IntegrityError`."""
        if path not in self.weights:
            with self.tree.open(path) as file:
                self.weights[path] = checkpoints.read_weights(file)
        return self.weights[path]

    @property
    def described(self) -> dict[str, Checkpoint]:
        """Return the checkpoints that could be read."""
        return {path: found for path, found in self.checkpoints.items() if not isinstance(found, MregError)}

    @property
    def configuration(self) -> str:
        """Return the configuration that the folder names, "" where it is not named as nnU-Net does."""
        parts = self.folder.split("__")
        return parts[2] if len(parts) == 3 else ""  # noqa: PLR2004 - trainer, plans, configuration

    @property
    def trainer_file(self) -> trainer.TrainerFile:
        """Return trainer_class.py, or where it would be."""
        names = frozenset(found.trainer_name for found in self.described.values())
        return trainer.TrainerFile(self.tree, self.at(FILE_NAME), names, self.released)

    @property
    def dataset_file(self) -> contract.DatasetFile:
        """Return dataset.json, an empty one where it cannot be read."""
        path, document = self.at("dataset.json"), self.dataset_json or {}
        return contract.DatasetFile(self.tree, path, document, self.at("plans.json"))

    @property
    def is_encoder(self) -> bool:
        """Whether it is a pre-trained encoder's."""
        return self._plans_name == encoder.PLANS or self.folder.startswith(encoder.TRAINERS)

    @property
    def is_own(self) -> bool:
        """Whether it is of a recipe whose nets nobody but mreg loads."""
        return self._plans_name in (classifier.PLANS, lesion_model.PLANS)

    @property
    def _plans_name(self) -> object:
        return (self.plans or {}).get("plans_name")

    def at(self, path: str) -> str:
        """Return a path as the tree knows it."""
        return f"{self.prefix}{path}"

    def line(self, path: str, *keys: str | int) -> int | None:
        """Return the line of a key of a JSON file in the folder."""
        return line_of(self.tree, self.at(path), *keys)
