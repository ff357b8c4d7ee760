"""What pydantic finds wrong with a document, in words; apart from model.toml, since a manifest needs no recipe."""

from __future__ import annotations

from typing import TYPE_CHECKING

from registry.near import meant

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pydantic import ValidationError


def describe(error: ValidationError, tables: Mapping[str, Iterable[str]] | None = None) -> str:
    """Put each problem of a pydantic error into words: key, value, what is wrong.

    `tables` has the keys of each table ("" at the top), among which the one that was meant is looked for.
    """
    problems = []
    for item in error.errors():
        key = ".".join(str(part) for part in item["loc"])
        key = "model.name" if key == "model.exempt" else key  # what is wrong with a name that is not exempt
        if item["type"] == "extra_forbidden":
            problems.append(f"unknown key {key!r}" + _meant(tables or {}, key))
        else:
            message = item["msg"].removeprefix("Value error, ")
            problems.append(
                f"{key} = {item['input']!r}: {message}"
                if key and item["type"] != "value_error"
                else f"{key}: {message}"
            )
    return "; ".join(problems)


def _meant(tables: Mapping[str, Iterable[str]], key: str) -> str:
    """Return the key that was probably meant, in its own table or where it belongs."""
    table, _, word = key.rpartition(".")
    near = meant(word, tables.get(table, ()))
    other = next((name for name, keys in tables.items() if word in keys and name != table), "")
    if near or not other:
        return f": {near}" if near else ""
    return f": it belongs under [{other}]"
