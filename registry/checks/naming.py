"""Rules on the name that a repo's model.toml gives, and on the names that it had before."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from registry import names
from registry.checks.rules import Draft, rule

if TYPE_CHECKING:
    from collections.abc import Iterator

    from registry.checks.repo import RepoFiles

TOML = "model.toml"


@rule("NAME001")
def name_is_valid(repo: RepoFiles) -> Iterator[Draft]:
    """The model's name can be read: its words are in the vocabulary, each in a field of its own."""
    if repo.name and not repo.exempt and names.parse(repo.name).errors:
        yield TOML, _said(repo.name), _better(repo.name), repo.line("model", "name")


@rule("NAME002", "warning")
def name_is_canonical(repo: RepoFiles) -> Iterator[Draft]:
    """The name follows the convention to the letter."""
    if repo.name and not repo.exempt and names.parse(repo.name).warnings:
        yield TOML, _said(repo.name), _better(repo.name), repo.line("model", "name")


@rule("NAME003", "warning")
def folder_has_the_name(repo: RepoFiles) -> Iterator[Draft]:
    """The folder is called as the model."""
    if repo.name and repo.folder != repo.name:
        hint = "rename the folder" if repo.folder in repo.previous_names else "rename one of them"
        was = ", which the model was called before" if repo.folder in repo.previous_names else ""
        message = f"name {repo.name!r}, the folder is {repo.folder!r}{was}"
        yield TOML, message, hint, repo.line("model", "name")


@rule("NAME007", "note")
def name_needs_no_exemption(repo: RepoFiles) -> Iterator[Draft]:
    """The name needs no exemption from the convention."""
    if repo.name and repo.exempt:
        if names.parse(repo.name).status == "valid":
            said, hint = f"{repo.name} follows the convention and is exempt from it", 'write exempt = ""'
        else:
            said, hint = f"{_said(repo.name)}; exempt: {repo.exempt}", _better(repo.name)
        yield TOML, said, hint, repo.line("model", "exempt")


@rule("NAME008", "warning")
def previous_names_are_names(repo: RepoFiles) -> Iterator[Draft]:
    """previous_names lists, once each, what the repository was really called before."""
    seen: set[str] = set()
    for name in repo.previous_names:
        line = repo.line("model", "previous_names")
        if name.lower() == repo.name.lower():
            yield TOML, f"previous_names has {name!r}, which is the present name", "take it out", line
        elif name.lower() in seen:
            yield TOML, f"previous_names has {name!r} twice: GitHub ignores case", "keep one", line
        elif not re.fullmatch(r"[A-Za-z0-9._-]{1,100}", name):
            yield TOML, f"previous_names has {name!r}, which no repository can be called", "correct it", line
        seen.add(name.lower())


RULES = [name_is_valid, name_is_canonical, folder_has_the_name, name_needs_no_exemption, previous_names_are_names]


def _said(name: str) -> str:
    return f"{name}: " + "; ".join(names.sentence(problem) for problem in names.explain(name))


def _better(name: str) -> str:
    """Return the name that was probably meant, and say aloud which words it leaves out."""
    result = names.parse(name)
    if result.canonical:
        return f"canonical: {result.canonical}"
    if not result.suggestion:
        return "mreg name says what a name is made of"
    left = f" (without {', '.join(result.dropped)}, which the vocabulary does not know)" if result.dropped else ""
    return f"did you mean {result.suggestion}?{left}"
