"""The files of a new model's repository, as text."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from string import Template

from registry import __version__, keys, origin, words
from registry.classifier import RECIPE as CLASSIFIER
from registry.errors import MregError
from registry.names import NameResult, require_strict
from trainers.catalog import RECIPES

TEMPLATES = Path(__file__).parent / "templates"
IMPORT = "mreg data import PATH/TO/BIDS data/raw --dataset-id N --contrast SUFFIX --label NAME=TAIL"
IMPORTS = {CLASSIFIER: "mreg data verify data/raw/TASK"}  # by recipe: how its data are made ready
LICENCES = tuple(sorted(path.stem for path in (TEMPLATES / "licences").glob("*.txt")))


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a new repository says about itself."""

    name: NameResult
    recipe: str = "nnunet"
    licence: str = "MIT"
    authors: tuple[str, ...] = ()
    url: str = ""  # its page in the registry, "" where it has none
    registry: str = ""  # for commands in the card, "" for the default

    @property
    def holder(self) -> str:
        """Return who holds the copyright."""
        return words.listing(self.authors) if self.authors else f"the authors of {self.name.name}"


def plan(name: str, *, recipe: str, licence: str, authors: tuple[str, ...], url: str = "", registry: str = "") -> Plan:
    """Check what the user asked for; raise `MregError` with what there is instead."""
    result = require_strict(name)
    if recipe not in RECIPES:
        raise MregError(f"recipe {recipe!r} is unknown", hint=f"there are: {', '.join(RECIPES)}")
    if licence not in LICENCES:
        raise MregError(
            f"licence {licence!r} is not one that mreg can write",
            hint=f"--licence {' | '.join(LICENCES)}; another one: put its text into LICENSE afterwards",
        )
    for author in authors:
        if not author.strip() or not author.isprintable():
            raise MregError(f"author {author!r} is not a name", hint='for example --author "Ada Lovelace"')
    return Plan(name=result, recipe=recipe, licence=licence, authors=authors, url=url, registry=registry)


def render(what: Plan) -> dict[str, str]:
    """Return path → text of every file of the first commit."""
    values = _values(what)
    own, readme = f"use-{what.recipe}.md", f"README-{what.recipe}.md"
    values |= {
        "use": _fill(own if (TEMPLATES / own).is_file() else "use.md", values).rstrip(),
        "import": IMPORTS.get(what.recipe, IMPORT),
    }
    return {
        "README.md": _fill(readme if (TEMPLATES / readme).is_file() else "README.md", values),
        "model.toml": keys.toml_text(_settings(what), what.recipe),
        "LICENSE": _fill(f"licences/{what.licence}.txt", values),
        "CITATION.cff": _fill("CITATION.cff", values).rstrip() + "\n",
        ".gitignore": _fill("gitignore", values),
        ".github/workflows/check.yml": _fill("check.yml", values),
        ".github/workflows/release.yml": _fill("release.yml", values),
    }


def _fill(template: str, values: dict[str, str]) -> str:
    return Template((TEMPLATES / template).read_text(encoding="utf-8")).substitute(values)


def _settings(what: Plan) -> dict[tuple[str, str], object]:
    return {
        ("model", "name"): what.name.name,
        ("model", "description"): words.description(what.name),
        ("model", "licence"): what.licence,
        ("model", "authors"): list(what.authors),
    }


def _values(what: Plan) -> dict[str, str]:
    description = words.description(what.name)
    health = words.terms(what.name, "pathology")
    return {
        "name": what.name.name,
        "description": description,
        "description_quoted": json.dumps(description),
        "task": words.listing(words.terms(what.name, "task")),
        "anatomy": words.listing(words.terms(what.name, "anatomy")),
        "contrast": words.listing(words.terms(what.name, "contrast")) or "not in the name: see the training data",
        "subjects": ", ".join(
            words.listing(group)
            for group in (words.terms(what.name, "animal"), health, words.terms(what.name, "condition"))
        ),
        "recipe": what.recipe,
        "licence": what.licence,
        "year": str(date.today().year),  # noqa: DTZ011 - the year of the author's own calendar
        "holder": what.holder,
        "version": __version__,
        "mreg_commit": origin.reference(),
        "mreg_version": f"v{__version__}",
        "releases": f"[a release]({what.url}/releases)" if what.url.startswith("https://") else "a release",
        "registry_flag": f" --registry {what.registry}" if what.registry else "",
        "citation_authors": "\n".join(_citation_author(author) for author in what.authors or (what.holder,)),
        "citation_address": f"repository-code: {json.dumps(what.url)}" if what.url.startswith("https://") else "",
    }


def _citation_author(author: str) -> str:
    """Return a name as CITATION.cff has it; a group of people is an entity, which has one name only."""
    family, comma, given = (part.strip() for part in author.partition(","))
    if not comma:
        given, _, family = author.strip().rpartition(" ")
    if not given or author.startswith("the "):
        return f"  - name: {_quoted(author.strip())}"
    return f"  - family-names: {_quoted(family)}\n    given-names: {_quoted(given)}"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
