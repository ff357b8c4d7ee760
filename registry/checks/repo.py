"""Rules on a model's repo: its model.toml, its contract and the papers that readers look for."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any

from registry import card, lines, model_toml, scrub, trainer_code
from registry.checks import at_hand, contract, encoder, naming, papers, privacy, trainer, truth
from registry.checks.rules import Draft, line_of, read_object, rule, text_of
from registry.errors import MregError
from registry.tree import DiskTree
from trainers.catalog import RECIPES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from registry.findings import Finding
    from registry.model_toml import ModelToml
    from registry.tree import Tree

TOML, CARD, DATASET = model_toml.FILE_NAME, "README.md", "dataset.json"
# Headings of the card, each with other words that people use for it.
CARD_SECTIONS = {
    "Use it": "use|usage|install|run|how to|quick ?start|getting started",
    "Training data": "data|dataset",
    "Results": "results|performance|metrics|evaluation",
    "Limits": "limits|limitations|caveats|known issues",
    "Cite it": "cite|citation|citing|reference",
}
LARGE = (".nii", ".nii.gz", ".pth", ".pt", ".ckpt", ".onnx", ".zip", ".b2nd", ".npz", ".dcm")
SYSTEM = {".DS_Store", "Thumbs.db", "desktop.ini"}
# A command may go on in the next line behind a backslash.
OLD_SCT = re.compile(r"sct_deepseg(?:(?!sct_deepseg)[^\n`]|\\\n){0,300}?\s-(?:install-|list-)?tasks?\b")


@dataclass
class RepoFiles:
    """A model's repo, on disk or elsewhere, without its data, runs and archives."""

    tree: Tree
    folder: str  # what the repo is called where it lies
    root: Path | None = None  # of a working copy
    is_git: bool = True

    @cached_property
    def toml(self) -> ModelToml | MregError:
        """Return model.toml, or what is wrong with it."""
        try:
            return model_toml.validate(model_toml.parse(self.text(TOML)))
        except MregError as error:
            return MregError(error.message.removeprefix(f"{TOML}: "), hint=error.hint)

    @cached_property
    def _model(self) -> dict[str, Any]:
        try:
            table = model_toml.parse(self.text(TOML)).get("model")
        except MregError:
            return {}
        return table if isinstance(table, dict) else {}

    @property
    def name(self) -> str:
        """Return the name that model.toml gives, whatever else is wrong with the file; "" for none."""
        name = self._model.get("name", "")
        return name if isinstance(name, str) else ""

    @property
    def exempt(self) -> str:
        """Return why the name may break the convention; "" for no such words."""
        return str(self._model.get("exempt", "") or "")

    @property
    def previous_names(self) -> list[str]:
        """Return the names that the repository had before."""
        found = self._model.get("previous_names")
        return [name for name in found if isinstance(name, str)] if isinstance(found, list) else []

    @cached_property
    def dataset_json(self) -> dict[str, Any] | None:
        """Return the contract, None before the first training."""
        return read_object(self.tree, DATASET)

    def text(self, path: str) -> str:
        """Return a text file's content, "" where it is missing."""
        return text_of(self.tree, path)

    def line(self, table: str, key: str) -> int | None:
        """Return the line of a key of model.toml."""
        return lines.of_toml(self.text(TOML), table, key)


@rule("REPO001")
def model_toml_is_valid(repo: RepoFiles) -> Iterator[Draft]:
    """model.toml is TOML with known keys and allowed values."""
    if isinstance(repo.toml, MregError):
        message = repo.toml.message
        place = re.search(r"\(at line (\d+)", message)
        key = re.search(r"unknown key '(\w+)\.([\w-]+)'|^(\w+)\.([\w-]+)", message)
        table, name = [part for part in key.groups() if part] if key else ("model", "name")
        yield TOML, message, repo.toml.hint, int(place[1]) if place else repo.line(table, name)


@rule("REPO004", "warning")
def card_has_its_sections(repo: RepoFiles) -> Iterator[Draft]:
    """README.md is a model card: use, training data, results with the metrics block, limits, citation."""
    text = repo.text(CARD)
    if not text.strip():
        yield CARD, "no model card", "mreg new writes one"
        return
    if not all(mark in text for mark in (card.START, card.END)):
        message = f"no block {card.START} … {card.END}: mreg evaluate cannot fill in the figures"
        heading = re.search(r"^#+\s.*results", text, re.MULTILINE | re.IGNORECASE)
        yield CARD, message, "add both lines under Results", lines.at(text, heading.start()) if heading else 1
    headings = "\n".join(re.findall(r"^#+\s+(.*)$", text, re.MULTILINE)).lower()
    for title, words in CARD_SECTIONS.items():
        if not re.search(rf"\b({words})\b", headings):
            yield CARD, f"no section on {words.partition('|')[0]}", f"## {title}", len(text.splitlines())


@rule("REPO005", "warning")
def card_shows_todays_commands(repo: RepoFiles) -> Iterator[Draft]:
    """README.md does not show SCT commands that were removed."""
    text = repo.text(CARD)
    for found in islice(OLD_SCT.finditer(text), papers.MOST):
        hint = "sct_deepseg TASK -i IMAGE, and sct_deepseg TASK -install before the first time"
        yield CARD, f"shows a removed syntax: {' '.join(found[0].split())}", hint, lines.at(text, found.start())


@rule("REPO006")
def data_stay_out_of_git(repo: RepoFiles) -> Iterator[Draft]:
    """.gitignore keeps data, runs and archives out of the repository."""
    if isinstance(repo.toml, MregError) or not repo.is_git:
        return
    ignored = {line.strip().strip("/") for line in repo.text(".gitignore").splitlines()}
    for folder in (repo.toml.paths.data, repo.toml.paths.runs, repo.toml.paths.dist):
        if folder.strip("/") not in ignored:
            yield ".gitignore", f"does not name {folder}/", f"add the line {folder}/"


@rule("REPO007", "warning")
def files_are_small(repo: RepoFiles) -> Iterator[Draft]:
    """No images, weights, archives or files of the operating system lie among the repo's own files."""
    for path in repo.tree.files():
        if path.lower().endswith(LARGE) or path.rpartition("/")[2] in SYSTEM or "__MACOSX" in path.split("/"):
            yield path, "does not belong into Git", "weights go into a release, images stay where the data are"


@rule("REPO008", "warning")
def files_name_no_home_folder(repo: RepoFiles) -> Iterator[Draft]:
    """No file of the repo, Markdown aside, names a home folder."""
    for path, message, _, *line in privacy.no_home_folders.function(repo.tree):
        if not path.endswith(".md"):
            hint = "write the path relative to the repo, or leave it out"
            yield path, message, hint, line[0] if line else None


@rule("REPO009", "warning")
def contract_lists_no_cases(repo: RepoFiles) -> Iterator[Draft]:
    """The repo's dataset.json lists no cases."""
    for key in scrub.CASE_LISTS:
        if (repo.dataset_json or {}).get(key):
            hint = "take the list out: Git shows it to everybody"
            yield DATASET, f"lists cases under {key}", hint, line_of(repo.tree, DATASET, key)


@rule("REPO015", "warning")
def contract_names_no_place(repo: RepoFiles) -> Iterator[Draft]:
    """The repo's dataset.json holds no absolute path."""
    for number, row in enumerate(repo.text(DATASET).splitlines(), start=1):
        if scrub.paths(row) != row and not privacy.HOME.search(row):  # REPO008 tells of home folders
            yield DATASET, "holds an absolute path", "take it out: it is a place of one machine", number


@rule("REPO010", "warning")
def paths_are_relative(repo: RepoFiles) -> Iterator[Draft]:
    """The folders that model.toml names lie in the repo, so that they are the same on every machine."""
    if isinstance(repo.toml, MregError):
        return
    named = [("paths", key, getattr(repo.toml.paths, key)) for key in ("data", "runs", "dist")]
    for table, key, value in [*named, ("data", "dataset", repo.toml.data.dataset)]:
        if re.match(r"[/~\\]|[A-Za-z]:", value) or ".." in re.split(r"[/\\]", value):
            message = f"[{table}] {key} = {value!r} is a place of one machine"
            yield TOML, message, "write it relative to the repo; a link may lead elsewhere", repo.line(table, key)


@rule("ORIENT002")
def contract_says_the_orientation(repo: RepoFiles) -> Iterator[Draft]:
    """The repo's dataset.json says image_orientation, one of SCT's 48 codes."""
    if repo.dataset_json is not None:
        yield from contract.missing_orientation(contract.DatasetFile(repo.tree, DATASET, repo.dataset_json))


@rule("JSON002")
def contract_is_json(repo: RepoFiles) -> Iterator[Draft]:
    """The repo's dataset.json is a JSON object."""
    if repo.tree.exists(DATASET) and repo.dataset_json is None:
        yield DATASET, "not a JSON object", "mend it, or remove it: mreg train writes it", 1


RULES = [
    model_toml_is_valid, card_has_its_sections, card_shows_todays_commands, data_stay_out_of_git, files_are_small,
    files_name_no_home_folder, contract_lists_no_cases, paths_are_relative, contract_names_no_place,
    contract_says_the_orientation, contract_is_json,
]  # fmt: skip


def _ignored(root: Path) -> tuple[str, ...]:
    """Return the folders that Git does not see, those of model.toml if it can be read."""
    try:
        paths = model_toml.read(root / TOML).paths
    except MregError:
        paths = model_toml.PathsSection.model_validate({})
    return (paths.data, paths.runs, paths.dist)


def findings(root: Path) -> Iterator[Finding]:
    """Yield all findings on a working copy, without its data, runs and archives."""
    tree = DiskTree(root, skip=_ignored(root))
    yield from tree_findings(RepoFiles(tree, root.name, root, is_git=(root / ".git").exists()))


def tree_findings(repo: RepoFiles) -> Iterator[Finding]:
    """Yield all findings on a repo, wherever it lies."""
    for entry in (*naming.RULES, *RULES, *papers.RULES, *encoder.REPO_RULES, *at_hand.REPO_RULES):
        yield from entry.run(repo)
    for check in privacy.EVERYWHERE:
        yield from check.run(repo.tree)
    settings: dict[str, Any] = {}
    if not isinstance(repo.toml, MregError):
        recipe = RECIPES[repo.toml.train.recipe]
        settings = recipe.settings.model_validate(repo.toml.train.settings).model_dump()
    name = str(settings.get("trainer") or "")
    if trainer_code.FILE_NAME in repo.tree.files():
        code = trainer.TrainerFile(repo.tree, trainer_code.FILE_NAME, frozenset({name} - {""}), released=False)
        yield from trainer.findings(code)
    place = (TOML, repo.line("train", "configuration"))
    claim = truth.Claim(repo.name, repo.tree, DATASET, str(settings.get("configuration") or ""), place)
    yield from truth.findings(claim)
    if repo.dataset_json is not None:
        yield from contract.findings(contract.DatasetFile(repo.tree, DATASET, repo.dataset_json))
