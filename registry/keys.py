"""Every key of model.toml, taken from its models: as a commented file, as a page of the manual, as a JSON Schema."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args, get_origin

from registry.model_toml import ModelToml
from trainers.catalog import RECIPES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pydantic import BaseModel
    from pydantic.fields import FieldInfo

SCHEMA_ID = "https://raw.githubusercontent.com/ivadomed/mreg/main/schemas/model.schema.json"
EXAMPLE = {
    ("model", "name"): "model_seg_sc_t2",
    ("model", "description"): "Segmentation of the spinal cord on T2-weighted MRI",
    ("model", "authors"): ["Ada Lovelace"],
}


class Key(NamedTuple):
    """One key: its table, what it means, and its value where the file does not say it (None: the recipe decides)."""

    table: str
    name: str
    meaning: str
    default: Any
    choices: tuple[str, ...]
    required: bool


def keys(recipe: str) -> Iterator[Key]:
    """Yield every key in the order of the file; the settings of the recipe stand in [train]."""
    for table, section in ModelToml.model_fields.items():
        yield from _of(table, section.annotation)
        if table == "train":
            yield from _of(table, RECIPES[recipe].settings)


def toml_text(values: Mapping[tuple[str, str], Any], recipe: str = "nnunet") -> str:
    """Return a model.toml in which every key has a comment; settings of the recipe are there as comments only.

    `values` maps (table, key) to what differs from the defaults.
    """
    values = {**values, ("train", "recipe"): recipe}
    lines = [
        "# Everything that a person decides about this model. Unknown keys are errors; docs: mreg, docs/model-toml.md"
    ]
    table = ""
    for key in keys(recipe):
        if key.table != table:
            table = key.table
            lines += ["", f"[{table}]"]
        value = values.get((key.table, key.name), key.default)
        choices = f" ({' | '.join(key.choices)})" if key.choices else ""
        lines.append(f"# {key.meaning}{choices}")
        if key.table == "train" and (key.table, key.name) not in values:
            lines.append(f"#{key.name} = " + ("  # as nnU-Net plans it" if value is None else toml_value(value)))
        else:
            lines.append(f"{key.name} = {toml_value(value)}")
    return "\n".join(lines) + "\n"


def toml_value(value: Any) -> str:
    """Return a value in TOML; JSON's notation is TOML's for everything that model.toml holds."""
    return json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)


def page() -> str:
    """Return docs/model-toml.md."""
    lines = [
        "# model.toml",
        "",
        "`model.toml` marks the root of a model's repository and holds everything that a person decides; `mreg new`",
        "writes it with a comment at every key. Unknown keys and values of another type are errors, reported together.",
        "An editor can check it while you type with [schemas/model.schema.json](../schemas/model.schema.json).",
        "",
        "This page is generated from the code: `python docs/generate.py`.",
    ]
    for table, section in ModelToml.model_fields.items():
        about = (_model(section.annotation).__doc__ or "").partition("\n")[0]
        lines += ["", f"## [{table}]", "", about, *_rows(_of(table, section.annotation))]
    for name, recipe in RECIPES.items():
        lines += [
            "",
            f"## [train], recipe {name}",
            "",
            f"Settings of {recipe.summary}; `mreg train --set KEY=VALUE` changes",
        ]
        lines += ["one for one training.", *_rows(_of("train", recipe.settings))]
    lines += [
        "",
        "## Example",
        "",
        "As `mreg new model_seg_sc_t2` writes it:",
        "",
        "```toml",
        toml_text(EXAMPLE).rstrip(),
        "```",
    ]
    return "\n".join(lines) + "\n"


def schema() -> dict[str, Any]:
    """Return the JSON Schema of model.toml, the recipes' settings in [train]."""
    document = ModelToml.model_json_schema()
    train = document["$defs"]["TrainSection"]
    train["properties"]["recipe"]["enum"] = list(RECIPES)
    train["allOf"] = []
    for name, recipe in RECIPES.items():
        settings = recipe.settings.model_json_schema()
        document["$defs"] |= settings.get("$defs", {})
        chosen: dict[str, Any] = {"properties": {"recipe": {"title": "recipe", "const": name}}}
        if name != train["properties"]["recipe"]["default"]:
            chosen["required"] = ["recipe"]
        allowed = {"recipe": True, **settings["properties"]}
        train["allOf"].append({"if": chosen, "then": {"properties": allowed, "additionalProperties": False}})
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": SCHEMA_ID, "title": "model.toml"}
    return head | {key: value for key, value in document.items() if key not in head}


def _rows(found: Iterator[Key]) -> list[str]:
    lines = ["", "| key | default | meaning |", "|---|---|---|"]
    for key in found:
        default = "required" if key.required else "planned" if key.default is None else f"`{toml_value(key.default)}`"
        choices = f" ({', '.join(f'`{choice}`' for choice in key.choices)})" if key.choices else ""
        lines.append(f"| `{key.name}` | {default} | {key.meaning}{choices} |")
    return lines


def _of(table: str, annotation: Any) -> Iterator[Key]:
    for name, field in _model(annotation).model_fields.items():
        required = field.is_required()
        default = "" if required else field.get_default(call_default_factory=False)
        yield Key(table, name, field.description or "", default, _choices(field), required)


def _model(annotation: Any) -> type[BaseModel]:
    model: type[BaseModel] = annotation
    return model


def _choices(field: FieldInfo) -> tuple[str, ...]:
    return get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
