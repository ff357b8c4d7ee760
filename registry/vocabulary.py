"""The words of model names: the registry's vocabulary file, and a project's own file merged into it."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

from registry.errors import MregError, NotFoundError

HERE = Path(__file__).parent
VERSION = 1
LETTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789")
CHARACTERS = LETTERS | frozenset("_-")


class Entry(NamedTuple):
    """One word of the vocabulary."""

    kind: Literal["term", "alias", "qualifier"]
    field: str
    spelling: str  # as the vocabulary writes it
    term: str  # what stands in a canonical name; "" for a qualifier


class Field(NamedTuple):
    """One field of a name."""

    name: str
    default: str | None
    is_list: bool
    terms: tuple[str, ...]


class Vocabulary(NamedTuple):
    """Fields in canonical order, and every word by its lower-case spelling."""

    fields: dict[str, Field]
    words: dict[str, Entry]

    def find(self, text: str) -> Entry | None:
        """Look a word up without case."""
        return self.words.get(text.lower())

    def terms(self) -> list[Entry]:
        """Return the terms, without aliases and qualifiers."""
        return [entry for entry in self.words.values() if entry.kind == "term"]


def load_vocabulary(extra: Path | None = None) -> Vocabulary:
    """Return the registry's vocabulary, with a project's file merged in where there is one.

    The project's file has the same shape; every key may be absent, terms are appended and aliases added.
    Raises `MregError` with all problems of a file whose words are not unique or whose shape is another.
    """
    return _own() if extra is None else build(_merge(_read(HERE / "vocabulary.json"), extra), extra)


@cache
def _own() -> Vocabulary:
    path = HERE / "vocabulary.json"
    return build(_read(path), path)


def build(document: dict[str, Any], path: Path) -> Vocabulary:
    """Index a whole vocabulary document and refuse words that are not unique, compared without case."""
    fields: dict[str, Field] = {}
    words: dict[str, Entry] = {}
    problems: list[str] = []

    def add(entry: Entry) -> None:
        key = entry.spelling.lower()
        if not is_word(entry.spelling):
            problems.append(f"{entry.kind} {entry.spelling!r} is not letters, digits and single inner hyphens")
        elif key in words:
            other = words[key]
            there = f"the {other.field} {other.kind} {other.spelling!r}"
            problems.append(f"{entry.field} {entry.kind} {entry.spelling!r} is already {there}")
        else:
            words[key] = entry

    for name in document["order"]:
        raw = document["fields"][name]
        terms = (*raw.get("core", ()), *raw.get("extended", ()))
        fields[name] = Field(name, raw["default"], raw["list"], terms)
        for term in terms:
            add(Entry("term", name, term, term))
        if raw["default"] is not None and raw["default"] not in terms:
            problems.append(f"{name}: default {raw['default']!r} is not one of its terms")
    for name, qualifiers in document.get("qualifiers", {}).items():
        for qualifier in qualifiers:
            add(Entry("qualifier", name, qualifier, ""))
    owner = {term: field.name for field in fields.values() for term in field.terms}
    for alias, term in document.get("aliases", {}).items():
        if term in owner:
            add(Entry("alias", owner[term], alias, term))
        else:
            problems.append(f"alias {alias!r} points to {term!r}, which is not a term")
    _refuse(path, problems)
    return Vocabulary(fields, words)


def is_word(text: str) -> bool:
    """Whether a text can stand in a name: letters and digits, joined by single hyphens."""
    return all(item and LETTERS.issuperset(item) for item in text.split("-"))


def _merge(document: dict[str, Any], extra: Path) -> dict[str, Any]:
    """Append a project's words to the registry's document."""
    added = _read(extra)
    fields = document["fields"]
    problems = [f"unknown key {key!r}" for key in added if key not in document]
    problems += [
        f"{key} is {added[key]!r}, the registry's is {document[key]!r}"
        for key in ("version", "order")
        if key in added and added[key] != document[key]
    ]
    for name, field in added.get("fields", {}).items():
        if name not in fields:
            problems.append(f"unknown field {name!r}; there are: {', '.join(fields)}")
            continue
        problems += [
            f"{name}: {key} is {field[key]!r}, the registry's is {fields[name][key]!r}"
            for key in ("default", "list")
            if key in field and field[key] != fields[name][key]
        ]
        fields[name]["extended"] += (*field.get("core", ()), *field.get("extended", ()))
    for name, qualifiers in added.get("qualifiers", {}).items():
        if name in fields:
            document["qualifiers"][name] = [*document["qualifiers"].get(name, ()), *qualifiers]
        else:
            problems.append(f"qualifiers of unknown field {name!r}")
    problems += [
        f"alias {alias!r} is already there" for alias in added.get("aliases", {}) if alias in document["aliases"]
    ]
    document["aliases"] |= added.get("aliases", {})
    _refuse(extra, problems)
    return document


def _read(path: Path) -> dict[str, Any]:
    """Read a vocabulary file and check its shape, not its words."""
    try:
        document = json.loads(path.read_bytes(), object_pairs_hook=_unique_keys)
    except FileNotFoundError:
        raise NotFoundError(f"{path}: no such file") from None
    except (ValueError, RecursionError) as error:
        raise MregError(
            f"{path}: not a vocabulary: {error}", hint="registry/vocabulary.json shows the shape"
        ) from error
    _refuse(path, list(_shape_problems(document)))
    return document  # type: ignore[no-any-return]


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError("written twice: " + ", ".join(sorted({key for key in keys if keys.count(key) > 1})))
    return document


def _shape_problems(document: Any) -> list[str]:
    """Say what keeps a document from being read as a vocabulary."""
    if not isinstance(document, dict):
        return ["the file is not an object"]
    problems = []
    if document.get("version", VERSION) != VERSION:
        problems.append(f"version is {document['version']!r}, this mreg reads {VERSION}")
    sections = ("fields", "qualifiers", "aliases")
    problems += [f"{key} is not an object" for key in sections if not isinstance(document.get(key, {}), dict)]
    if problems:
        return problems
    for name, field in document.get("fields", {}).items():
        if not isinstance(field, dict) or not set(field) <= {"default", "list", "core", "extended"}:
            problems.append(f"field {name!r} is not an object of default, list, core and extended")
        else:
            problems += [
                f"{name}.{key} is not a list of words"
                for key in ("core", "extended")
                if not _is_words(field.get(key, []))
            ]
    problems += [
        f"qualifiers.{name} is not a list of words"
        for name, words in document.get("qualifiers", {}).items()
        if not _is_words(words)
    ]
    problems += [
        f"alias {alias!r} points to {term!r}"
        for alias, term in document.get("aliases", {}).items()
        if not isinstance(term, str)
    ]
    return problems


def _is_words(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(word, str) for word in value)


def _refuse(path: Path, problems: list[str]) -> None:
    if problems:
        raise MregError(
            f"{path}: " + "; ".join(problems), hint="each term, alias and qualifier may occur once, in any case"
        )
