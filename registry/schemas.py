"""The JSON Schemas of the files that mreg reads and writes, and what they say about a document."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from registry import lines
from registry.files import read_json
from registry.findings import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import ValidationError

HERE = Path(__file__).parent
MISSING, TYPE, VALUE, UNKNOWN = "SCHEMA001", "SCHEMA002", "SCHEMA003", "SCHEMA004"
# Code → what is wrong; an error, where the schema does not say otherwise.
KINDS = {
    MISSING: "a key is missing",
    TYPE: "a value is of another type than the schema wants",
    VALUE: "a value is not one that the schema allows",
    UNKNOWN: "a key that the schema does not know",
}
TYPES = {"object": "an object", "array": "a list", "string": "text", "integer": "an integer", "number": "a number"}
TYPES |= {"boolean": "true or false", "null": "null"}
LIMITS = {
    "minimum": "at least {}",
    "exclusiveMinimum": "more than {}",
    "maximum": "at most {}",
    "exclusiveMaximum": "less than {}",
    "minItems": "a length of at least {}",
    "maxItems": "a length of at most {}",
    "minProperties": "a length of at least {}",
    "minLength": "a length of at least {}",
    "uniqueItems": "no item twice",
    "const": "{}",
}
LONGEST_VALUE = 80


def folder() -> Path:
    """Return where the schemas lie: inside the installed package, or at the top of a checkout."""
    packed = HERE / "schemas"
    return packed if packed.is_dir() else HERE.parent / "schemas"


def names() -> list[str]:
    """Return the names that `load` and `validate` know."""
    return sorted(path.name.removesuffix(".schema.json") for path in folder().glob("*.schema.json"))


def load(name: str) -> dict[str, Any]:
    """Return schemas/NAME.schema.json."""
    schema: dict[str, Any] = read_json(folder() / f"{name}.schema.json")
    return schema


@cache
def _validator(name: str) -> Draft202012Validator:
    from jsonschema import Draft202012Validator

    return Draft202012Validator(load(name))


def validate(name: str, document: Any, path: str, text: str = "") -> list[Finding]:
    """Return everything in which a document differs from a schema, sorted by key.

    `path` is the file's path inside the target, `text` what it says, for the lines of the findings. Each message says
    key path, value and what was expected.
    """
    errors = sorted(_validator(name).iter_errors(document), key=_place)
    findings = [
        replace(finding, line=lines.of_key(text, *error.absolute_path) if text else None)
        for error in errors
        for finding in _findings(error, path)
    ]
    return list(dict.fromkeys(findings))  # one value can break two keywords of one sentence


def _place(error: ValidationError) -> list[str]:
    return [f"{key:09}" if isinstance(key, int) else key for key in error.absolute_path]


def _findings(error: ValidationError, path: str) -> Iterator[Finding]:
    """Put one error into words; missing and unknown keys are a finding each."""
    where = _where(error)
    kind, value, instance = str(error.validator), _any(error.validator_value), _any(error.instance)
    schema = error.schema if isinstance(error.schema, dict) else {}
    if kind == "required":
        # jsonschema reports each missing key as an error of its own and names it in its message only.
        key = next(key for key in value if error.message.startswith(repr(key)))
        about = schema.get("properties", {}).get(key, {})
        message = f"{where}key {key!r} is missing" + (f" ({about['title']})" if "title" in about else "")
        yield Finding(code=MISSING, message=message, path=path, hint=about.get("x-hint", ""))
    elif kind == "additionalProperties":
        allowed = schema.get("properties", {})
        for key in [key for key in instance if key not in allowed]:
            message = f"{where}unknown key {key!r}, expected one of {', '.join(allowed)}"
            yield Finding(code=UNKNOWN, message=message, path=path)
    else:
        what = "key " if "propertyNames" in error.relative_schema_path else ""
        message = f"{where}{what}{_shown(instance)}, expected {_expected(kind, value, schema)}"
        yield Finding(
            code=TYPE if kind == "type" else VALUE,
            level=schema.get("x-level", "error"),
            message=message,
            path=path,
            hint=_correction(instance, schema) or schema.get("x-hint", ""),
        )


def _any(value: Any) -> Any:
    """Forget that jsonschema's attributes could be unset: those of a reported error never are."""
    return value


def _where(error: ValidationError) -> str:
    keys = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in error.absolute_path)
    return f"{keys.removeprefix('.')}: " if keys else ""


def _expected(kind: str, value: Any, schema: dict[str, Any]) -> str:
    if kind == "type":
        return " or ".join(TYPES[name] for name in ([value] if isinstance(value, str) else value))
    if kind == "enum":
        return "one of " + ", ".join(map(_shown, value))
    if kind in LIMITS:
        return LIMITS[kind].format(_shown(value))
    return str(schema.get("title") or f"{kind} {_shown(value)}")


def _correction(value: Any, schema: dict[str, Any]) -> str:
    """Return the capitals without spaces that would have been right, where they would."""
    if not isinstance(value, str):
        return ""
    from jsonschema import Draft202012Validator

    better = value.strip().upper()
    fits = better != value and Draft202012Validator(schema).is_valid(better)
    return f"did you mean {better}?" if fits else ""


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 1]}…"
