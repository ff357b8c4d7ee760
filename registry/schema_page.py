"""docs/schemas.md: every key of every schema, with its type and what it means, from titles and descriptions."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from registry import schemas

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

HEAD = """\
# Schemas

The documents that mreg reads and writes, as JSON Schema (2020-12). `mreg check` holds files against them, editors can
while one types, and other programs may; a schema says less than the rules of [rules.md](rules.md), which know the files
around a document. In the tables `*` stands for any key and `[]` for each item; what is not marked as required may be
left out. This page is generated from the schemas: `python docs/generate.py`.
"""


class Row(NamedTuple):
    """One key of a schema."""

    path: str
    kind: str
    required: bool
    meaning: str


def page() -> str:
    """Return docs/schemas.md."""
    return HEAD + "".join(_section(name) for name in schemas.names())


def rows(schema: Mapping[str, Any], root: Mapping[str, Any], path: str = "") -> Iterator[Row]:
    """Yield every key below a schema, depth first; keys of `properties`, map values as `*`, items as `[]`."""
    here = whole(schema, root)
    needed = here.get("required", ())
    for key, part in here.get("properties", {}).items():
        yield from _rows_of(part, root, f"{path}.{key}" if path else key, required=key in needed)
    inner = [(f"{path}.*" if path else "*", here.get("additionalProperties")), (f"{path}[]", here.get("items"))]
    for place, part in inner:
        if isinstance(part, dict) and _says_more(part, root):
            yield from _rows_of(part, root, place, required=False)
    for part in _choices(here, root):
        yield from rows(part, root, path)
    for part in here.get("allOf", ()):
        if "then" in part:
            own = {key: about for key, about in part["then"]["properties"].items() if about is not True}
            yield from rows({"properties": own}, root, path)


def whole(schema: Mapping[str, Any], root: Mapping[str, Any]) -> dict[str, Any]:
    """Return a schema with what it refers to written in; its own words go first."""
    reference = schema.get("$ref")
    if reference is None:
        return dict(schema)
    target = root["$defs"][reference.removeprefix("#/$defs/")]
    return {**whole(target, root), **{key: value for key, value in schema.items() if key != "$ref"}}


def _rows_of(part: Mapping[str, Any], root: Mapping[str, Any], path: str, *, required: bool) -> Iterator[Row]:
    here = whole(part, root)
    if meaning := _meaning(here, root, path):
        yield Row(path, _kind(here, root), required, meaning)
    yield from rows(here, root, path)


def _says_more(part: Mapping[str, Any], root: Mapping[str, Any]) -> bool:
    """Whether the values of a map or list are worth rows of their own."""
    here = whole(part, root)
    keys = ("properties", "additionalProperties", "items")
    return any(isinstance(here.get(key), dict) for key in keys) or any(
        _says_more(p, root) for p in _choices(here, root)
    )


def _choices(here: Mapping[str, Any], root: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the alternatives that are values of their own, without null."""
    found = [whole(part, root) for key in ("anyOf", "oneOf") for part in here.get(key, ())]
    return [part for part in found if part.get("type", "null") != "null"]


def _kind(here: Mapping[str, Any], root: Mapping[str, Any]) -> str:
    """Return the type in words."""
    if "const" in here:
        return f"`{json.dumps(here['const'])}`"
    if "enum" in here:
        return " or ".join(f"`{json.dumps(value)}`" for value in here["enum"])
    types = here.get("type", [])
    words = [schemas.TYPES[name] for name in ([types] if isinstance(types, str) else types)]
    parts = [whole(part, root) for key in ("anyOf", "oneOf") for part in here.get(key, ()) if "required" not in part]
    words += [_kind(part, root) for part in parts]
    if "not" in here and not words:
        return "must not be there"
    return " or ".join(dict.fromkeys(words)) or "anything"


def _meaning(here: Mapping[str, Any], root: Mapping[str, Any], path: str) -> str:
    """Return title and description; a title that pydantic made of a name says nothing."""
    title, text = str(here.get("title", "")), str(here.get("description", ""))
    key = path.rpartition(".")[2]
    if title in root.get("$defs", {}) or title == key.replace("_", " ").title():
        title = ""
    return f"{title}. {text}" if title and text else title or text


def _section(name: str) -> str:
    schema = schemas.load(name)
    lines = ["", f"## {schema['title']}", "", f"`schemas/{name}.schema.json`: {schema['description']}", ""]
    lines += ["| key | type | required | meaning |", "|---|---|---|---|"]
    for row in rows(schema, schema):
        meaning = row.meaning.replace("|", "\\|")
        lines.append(f"| `{row.path}` | {row.kind} | {'yes' if row.required else ''} | {meaning} |")
    return "\n".join(lines) + "\n"
