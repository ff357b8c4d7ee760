"""Model names and release tags: what a name says, what is wrong with it, and the name that was probably meant.

A name is `model_` and up to seven fields, which are told apart by the vocabulary and not by their position, because
every field with a default may be left out. Nothing here needs more than the standard library.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from registry.errors import MregError
from registry.vocabulary import CHARACTERS, Entry, Vocabulary, load_vocabulary

__all__ = [
    "EXPLANATIONS",
    "NameResult",
    "Problem",
    "check_tag",
    "explain",
    "load_vocabulary",
    "parse",
    "require_strict",
]

MAX_LENGTH = 100
TAG_YEARS = range(2010, 2100)

EXPLANATIONS = {
    "E_TOO_LONG": f"a name has at most {MAX_LENGTH} characters",
    "E_CHARS": "a name is made of unaccented letters, digits, _ and -",
    "E_SEPARATOR": "fields are separated by _, not by -",
    "E_PREFIX": "a name starts with model_",
    "E_EMPTY_SEGMENT": "something is missing between, before or after two separators",
    "E_EMPTY": "nothing follows model",
    "E_UNKNOWN_TOKEN": "not a word of the vocabulary, or a qualifier that stands alone",
    "E_MIXED_SEGMENT": "words of different fields are joined by -; separate fields by _",
    "E_DUPLICATE_FIELD": "one field is written twice; join its words by -",
    "E_DUPLICATE_VALUE": "one word is written twice",
    "E_LIST_NOT_ALLOWED": "this field takes one word only",
    "W_CASE": "the vocabulary spells it with other capitals",
    "W_ALIAS": "the vocabulary has another word for it",
    "W_QUALIFIER": "a qualifier is not part of the name and is left out",
    "W_ORDER": "the fields are not in the convention's order",
    "W_NO_TASK": "no task, for example seg, label or find",
    "T_FORM": "a release tag is r and a date of eight digits, for example r20240915",
    "T_DATE": f"not a calendar date of the years {TAG_YEARS[0]} to {TAG_YEARS[-1]}",
}


class NameResult(NamedTuple):
    """What a name says. `fields`, `canonical`, `short` and `full` are None for an invalid name."""

    name: str
    status: Literal["valid", "warn", "invalid"]
    errors: list[str]  # codes, sorted
    warnings: list[str]  # codes, sorted; empty for an invalid name
    fields: dict[str, list[str]] | None  # as written: terms in the author's order, fields in canonical order
    canonical: str | None
    short: str | None
    full: str | None  # equal for two names that mean the same model
    suggestion: str | None  # for an invalid name
    dropped: list[str]  # words of an invalid name that the suggestion had no place for


class Problem(NamedTuple):
    """One error or warning and the part of the name that it is about ("" for the whole name)."""

    code: str
    part: str = ""


def parse(name: str, vocabulary: Vocabulary | None = None) -> NameResult:
    """Read a name. Never raises: what is wrong is in the result.

    >>> parse("model_seg_SC_t2w").canonical
    'model_seg_sc_t2'
    """
    vocabulary = vocabulary or load_vocabulary()
    problems, fields = _read(name, vocabulary)
    codes = sorted({problem.code for problem in problems})
    errors = [code for code in codes if code.startswith("E_")]
    if errors:
        suggestion, dropped = _suggest(name, vocabulary)
        return NameResult(name, "invalid", errors, [], None, None, None, None, suggestion, dropped)
    ordered = _in_order(fields, vocabulary)
    return NameResult(
        name=name,
        status="warn" if codes else "valid",
        errors=[],
        warnings=codes,
        fields=ordered,
        canonical=_join(ordered),
        short=_join(_shortened(ordered, vocabulary)),
        full=_join(_completed(ordered, vocabulary)),
        suggestion=None,
        dropped=[],
    )


def explain(name: str, vocabulary: Vocabulary | None = None) -> list[Problem]:
    """Return the problems behind the codes of `parse`, with the parts of the name that they are about."""
    problems, _ = _read(name, vocabulary or load_vocabulary())
    errors = [problem for problem in problems if problem.code.startswith("E_")]
    return list(dict.fromkeys(errors or problems))


def require_strict(name: str, vocabulary: Vocabulary | None = None) -> NameResult:
    """Return what a name says; raise `MregError` for an error and for a warning alike."""
    result = parse(name, vocabulary)
    if result.status == "valid":
        return result
    better = result.suggestion or result.canonical
    problems = "; ".join(sentence(problem) for problem in explain(name, vocabulary))
    dropped = f" (left out: {', '.join(result.dropped)})" if result.dropped else ""
    hint = f"did you mean {better}{dropped}?" if better and better != name else f"mreg name {name!r} says more"
    raise MregError(f"name {name!r}: {problems}", hint=hint)


def sentence(problem: Problem) -> str:
    """Put a problem into words."""
    return f"{problem.part}: {EXPLANATIONS[problem.code]}" if problem.part else EXPLANATIONS[problem.code]


def check_tag(tag: str) -> Literal["T_FORM", "T_DATE"] | None:
    """Return what is wrong with a release tag: T_FORM, T_DATE, or None.

    >>> check_tag("r20230229")
    'T_DATE'
    """
    import datetime as dt

    digits = tag[1:]
    if not (tag[:1] == "r" and len(digits) == len("YYYYMMDD") and digits.isascii() and digits.isdigit()):
        return "T_FORM"
    try:
        date = dt.date(int(digits[:4]), int(digits[4:6]), int(digits[6:]))
    except ValueError:
        return "T_DATE"
    return None if date.year in TAG_YEARS else "T_DATE"


def _read(name: str, vocabulary: Vocabulary) -> tuple[list[Problem], dict[str, list[str]]]:
    """Return the problems and the terms of each field, fields in the author's order."""
    problem = _broken_form(name)
    if problem:
        return [problem], {}
    problems: list[Problem] = []
    fields: dict[str, list[str]] = {}
    for segment in name.split("_")[1:]:
        terms = _read_segment(segment, vocabulary, problems)
        found = list(dict.fromkeys(term.field for term in terms))
        values = [term.term for term in terms]
        repeated = [value for value in dict.fromkeys(values) if values.count(value) > 1]
        problems += [Problem("E_DUPLICATE_VALUE", value) for value in repeated]
        if len(found) > 1:
            problems.append(Problem("E_MIXED_SEGMENT", segment))
        elif found:
            field = found[0]
            if len(values) > 1 and not repeated and not vocabulary.fields[field].is_list:
                problems.append(Problem("E_LIST_NOT_ALLOWED", segment))
            if field in fields:
                problems.append(Problem("E_DUPLICATE_FIELD", field))
            fields.setdefault(field, values)
    if list(fields) != list(_in_order(fields, vocabulary)):
        problems.append(Problem("W_ORDER"))
    if "task" not in fields:
        problems.append(Problem("W_NO_TASK"))
    return problems, fields


def _broken_form(name: str) -> Problem | None:
    """Check what needs no vocabulary; the first problem hides the others."""
    strange = "".join(dict.fromkeys(character for character in name if character not in CHARACTERS))
    segments = name.split("_")
    if len(name) > MAX_LENGTH:
        return Problem("E_TOO_LONG")
    if strange:
        return Problem("E_CHARS", repr(strange)[1:-1])
    if name.startswith("model-"):
        return Problem("E_SEPARATOR")
    if segments[0] != "model":
        return Problem("E_PREFIX")
    if not all(item for segment in segments for item in segment.split("-")):
        return Problem("E_EMPTY_SEGMENT")
    return None if len(segments) > 1 else Problem("E_EMPTY")


def _read_segment(segment: str, vocabulary: Vocabulary, problems: list[Problem]) -> list[Entry]:
    """Return the terms of one segment; add what is wrong with single items to `problems`."""
    terms: list[Entry] = []
    previous: Entry | None = None
    for item in [segment] if vocabulary.find(segment) else segment.split("-"):
        entry = vocabulary.find(item)
        if entry is None:
            problems.append(Problem("E_UNKNOWN_TOKEN", item))
        elif entry.kind != "qualifier":
            terms.append(entry)
        elif previous and previous.field == entry.field:
            problems.append(Problem("W_QUALIFIER", item))
        else:
            problems.append(Problem("E_UNKNOWN_TOKEN", item))
        if entry and entry.spelling != item:
            problems.append(Problem("W_CASE", item))
        if entry and entry.kind == "alias":
            problems.append(Problem("W_ALIAS", item))
        previous = entry
    return terms


def _in_order(fields: dict[str, list[str]], vocabulary: Vocabulary) -> dict[str, list[str]]:
    return {field: fields[field] for field in vocabulary.fields if field in fields}


def _shortened(fields: dict[str, list[str]], vocabulary: Vocabulary) -> dict[str, list[str]]:
    """Leave out the fields that say their default; anatomy stays where nothing else would."""
    kept = {name: terms for name, terms in fields.items() if terms != [vocabulary.fields[name].default]}
    return kept or {"anatomy": [vocabulary.fields["anatomy"].default or ""]}


def _completed(fields: dict[str, list[str]], vocabulary: Vocabulary) -> dict[str, list[str]]:
    """Write out the defaults of the fields that are missing."""
    defaults = {field.name: [field.default] for field in vocabulary.fields.values() if field.default is not None}
    return _in_order(defaults | fields, vocabulary)


def _join(fields: dict[str, list[str]]) -> str:
    return "_".join(["model", *("-".join(terms) for terms in fields.values())])


def _suggest(name: str, vocabulary: Vocabulary) -> tuple[str | None, list[str]]:
    """Return the name that was probably meant and the words that found no place in it."""
    from registry.spelling import guess_words

    fields: dict[str, list[str]] = {}
    dropped: list[str] = []
    for text, entry in guess_words(name, vocabulary):
        if entry is None:
            dropped.append(text)
        elif entry.kind != "qualifier":
            terms = fields.setdefault(entry.field, [])
            if entry.term not in terms:
                terms.append(entry.term)
    ambiguous = any(len(terms) > 1 and not vocabulary.fields[field].is_list for field, terms in fields.items())
    if not fields or ambiguous:
        return None, dropped
    suggestion = _join(_in_order(fields, vocabulary))
    # A list of many words can be too long for a name, and a project's hyphenated term cannot stand in a list.
    broken = any(problem.code.startswith("E_") for problem in _read(suggestion, vocabulary)[0])
    return None if broken else suggestion, dropped
