"""Rules on a model's repo: its name, model.toml, contract and the papers that readers look for."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from registry import card, model_toml, names, scrub
from registry.checks import model, privacy
from registry.checks.rules import read_object, rule
from registry.errors import MregError
from registry.tree import DiskTree

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from registry.findings import Finding
    from registry.model_toml import ModelToml

Draft = tuple[str, str, str]
# Headings of the card, each with other words that people use for it.
CARD_SECTIONS = {
    "Use it": "use|usage|install|run|how to|quick ?start|getting started",
    "Training data": "data|dataset",
    "Results": "results|performance|metrics|evaluation",
    "Limits": "limits|limitations|caveats|known issues",
    "Cite it": "cite|citation|citing|reference",
}
LICENCES = ("LICENSE", "LICENSE.md", "LICENSE.txt", "LICENCE", "LICENCE.md", "COPYING")
LARGE = (".nii", ".nii.gz", ".pth", ".pt", ".ckpt", ".onnx", ".zip", ".b2nd", ".npz")
OLD_SCT = re.compile(r"sct_deepseg[^\n]*\s-(?:install-)?task\b")


@dataclass
class RepoFiles:
    """A working copy without its data, runs and archives."""

    root: Path
    tree: DiskTree

    @cached_property
    def toml(self) -> ModelToml | MregError:
        """Return model.toml, or what is wrong with it."""
        try:
            return model_toml.read(self.root / model_toml.FILE_NAME)
        except MregError as error:
            return error

    @cached_property
    def name(self) -> str:
        """Return the name that model.toml gives, whatever else is wrong with the file; "" for none."""
        try:
            name = tomllib.loads(self.text(model_toml.FILE_NAME)).get("model", {}).get("name", "")
        except (tomllib.TOMLDecodeError, AttributeError, RecursionError):
            return ""
        return name if isinstance(name, str) else ""

    @cached_property
    def dataset_json(self) -> dict[str, Any] | None:
        """Return the contract, None before the first training."""
        return read_object(self.tree, "dataset.json") if (self.root / "dataset.json").is_file() else None

    def text(self, name: str) -> str:
        """Return a text file's content, "" where it is missing."""
        path = self.root / name
        return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


@rule("REPO001")
def model_toml_is_valid(repo: RepoFiles) -> Iterator[Draft]:
    """model.toml is TOML with known keys and allowed values."""
    if isinstance(repo.toml, MregError):
        yield "model.toml", repo.toml.message.removeprefix(f"{repo.root / 'model.toml'}: "), repo.toml.hint


@rule("NAME001")
def name_is_valid(repo: RepoFiles) -> Iterator[Draft]:
    """The model's name can be read: its words are in the vocabulary, each in a field of its own."""
    result = names.parse(repo.name) if repo.name else None
    if result and result.errors:
        said = "; ".join(names.sentence(problem) for problem in names.explain(repo.name))
        yield "model.toml", f"{repo.name}: {said}", f"did you mean {result.suggestion}?" if result.suggestion else ""


@rule("NAME002", "warning")
def name_is_canonical(repo: RepoFiles) -> Iterator[Draft]:
    """The name follows the convention to the letter."""
    result = names.parse(repo.name) if repo.name else None
    if result and result.warnings:
        said = "; ".join(names.sentence(problem) for problem in names.explain(repo.name))
        yield "model.toml", f"{repo.name}: {said}", f"canonical: {result.canonical}"


@rule("NAME003", "warning")
def folder_has_the_name(repo: RepoFiles) -> Iterator[Draft]:
    """The folder is called as the model."""
    if repo.name and repo.root.name != repo.name:
        yield "model.toml", f"name {repo.name!r}, the folder is {repo.root.name!r}", "rename one of them"


@rule("NAME004", "warning")
def name_agrees_with_the_labels(repo: RepoFiles) -> Iterator[Draft]:
    """Of several contrasts in the name, dataset.json has as many channels."""
    if isinstance(repo.toml, MregError) or repo.dataset_json is None:
        return
    fields = names.parse(repo.toml.model.name).fields or {}
    channels, contrasts = repo.dataset_json.get("channel_names"), fields.get("contrast", [])
    if isinstance(channels, dict) and 1 < len(contrasts) != len(channels) and len(channels) > 1:
        yield "dataset.json", f"{len(channels)} channels, the name has {len(contrasts)} contrasts", "mend one of them"


@rule("REPO002", "warning")
def licence_is_there(repo: RepoFiles) -> Iterator[Draft]:
    """A LICENSE file says what others may do."""
    if not any(repo.text(name).strip() for name in LICENCES):
        yield "LICENSE", "no licence file", "add one; mreg new writes it"


@rule("REPO003", "warning")
def citation_is_there(repo: RepoFiles) -> Iterator[Draft]:
    """CITATION.cff says how to cite the model."""
    if not repo.text("CITATION.cff").strip():
        yield "CITATION.cff", "no CITATION.cff", "add one; mreg new writes it"


@rule("REPO004", "warning")
def card_has_its_sections(repo: RepoFiles) -> Iterator[Draft]:
    """README.md is a model card: use, training data, results with the metrics block, limits, citation."""
    text = repo.text("README.md")
    if not text.strip():
        yield "README.md", "no model card", "mreg new writes one"
        return
    if not all(mark in text for mark in (card.START, card.END)):
        message = f"no block {card.START} … {card.END}: mreg evaluate cannot fill in the figures"
        yield "README.md", message, "add both lines under Results"
    headings = "\n".join(re.findall(r"^#+\s+(.*)$", text, re.MULTILINE)).lower()
    for title, words in CARD_SECTIONS.items():
        if not re.search(rf"\b({words})\b", headings):
            yield "README.md", f"no section on {words.partition('|')[0]}", f"## {title}"


@rule("REPO005", "warning")
def card_shows_todays_commands(repo: RepoFiles) -> Iterator[Draft]:
    """README.md does not show SCT commands that were removed."""
    found = OLD_SCT.search(repo.text("README.md"))
    if found:
        yield "README.md", f"shows a removed syntax: {found[0]}", "sct_deepseg TASK -i IMAGE"


@rule("REPO006")
def data_stay_out_of_git(repo: RepoFiles) -> Iterator[Draft]:
    """.gitignore keeps data, runs and archives out of the repository."""
    if isinstance(repo.toml, MregError) or not (repo.root / ".git").exists():
        return
    ignored = {line.strip().strip("/") for line in repo.text(".gitignore").splitlines()}
    for folder in (repo.toml.paths.data, repo.toml.paths.runs, repo.toml.paths.dist):
        if folder.strip("/") not in ignored:
            yield ".gitignore", f"does not name {folder}/", f"add the line {folder}/"


@rule("REPO007", "warning")
def files_are_small(repo: RepoFiles) -> Iterator[Draft]:
    """No images, weights, archives or files of the operating system lie among the repo's own files."""
    for path in repo.tree.files():
        if path.lower().endswith(LARGE) or path.rpartition("/")[2] == ".DS_Store":
            yield path, "does not belong into Git", "weights go into a release, images stay where the data are"


@rule("REPO008", "warning")
def files_name_no_home_folder(repo: RepoFiles) -> Iterator[Draft]:
    """No file of the repo, Markdown aside, names a home folder."""
    for path, message, *_ in privacy.no_home_folders.function(repo.tree):
        if not path.endswith(".md"):
            yield path, message, "write the path relative to the repo, or leave it out"


@rule("REPO009", "warning")
def contract_lists_no_cases(repo: RepoFiles) -> Iterator[Draft]:
    """The repo's dataset.json lists no cases."""
    listed = [key for key in scrub.CASE_LISTS if (repo.dataset_json or {}).get(key)]
    if listed:
        yield (
            "dataset.json",
            f"lists cases under {', '.join(listed)}",
            "take the lists out: Git shows them to everybody",
        )


@rule("ORIENT002")
def contract_says_the_orientation(repo: RepoFiles) -> Iterator[Draft]:
    """The repo's dataset.json says image_orientation, one of SCT's 48 codes."""
    if repo.dataset_json is not None:
        yield from model.missing_orientation(repo.dataset_json, "dataset.json")


@rule("JSON002")
def contract_is_json(repo: RepoFiles) -> Iterator[Draft]:
    """The repo's dataset.json is a JSON object."""
    if (repo.root / "dataset.json").is_file() and repo.dataset_json is None:
        yield "dataset.json", "not a JSON object", "mend it, or remove it: mreg train writes it"


RULES = [
    model_toml_is_valid, name_is_valid, name_is_canonical, folder_has_the_name, name_agrees_with_the_labels,
    licence_is_there, citation_is_there, card_has_its_sections, card_shows_todays_commands, data_stay_out_of_git,
    files_are_small, files_name_no_home_folder, contract_lists_no_cases, contract_says_the_orientation,
    contract_is_json,
]  # fmt: skip


def _ignored(root: Path) -> tuple[str, ...]:
    """Return the folders that Git does not see, those of model.toml if it can be read."""
    try:
        paths = model_toml.read(root / model_toml.FILE_NAME).paths
    except MregError:
        paths = model_toml.PathsSection.model_validate({})
    return (paths.data, paths.runs, paths.dist)


def findings(root: Path) -> Iterator[Finding]:
    """Yield all findings on a working copy, without its data, runs and archives."""
    repo = RepoFiles(root, DiskTree(root, skip=_ignored(root)))
    for entry in RULES:
        yield from entry.run(repo)
    if repo.dataset_json is not None:
        yield from model.dataset_document(repo.dataset_json, "dataset.json")
