"""Rules on the JSON files of a model, whatever they are about."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

from registry import lines
from registry.checks.rules import Draft, rule, text_of
from registry.errors import MregError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from registry.checks.model_files import ModelFiles


@rule("JSON001")
def json_is_readable(model: ModelFiles) -> Iterator[Draft]:
    """Every JSON file is JSON."""
    for path in model.files:
        if not path.endswith(".json"):
            continue
        try:
            json.loads(model.tree.read_bytes(model.at(path)))
        except (ValueError, RecursionError) as error:
            line = error.lineno if isinstance(error, json.JSONDecodeError) else None
            yield model.at(path), f"not JSON: {error}", "write it again", line
        except MregError as error:
            yield model.at(path), error.message, error.hint


@rule("JSON003")
def keys_are_written_once(model: ModelFiles) -> Iterator[Draft]:
    """No JSON file writes a key twice in one object: of two values programs take the last."""
    for path in ("dataset.json", "plans.json", "dataset_fingerprint.json"):
        for key, line in _doubles(text_of(model.tree, model.at(path))):
            yield model.at(path), f"key {key!r} is written twice", "keep one of them", line


def _doubles(text: str) -> list[tuple[str, int | None]]:
    """Return the keys that one object writes twice, with the line of the object's last one of that name."""
    found: list[str] = []

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        counts = Counter(key for key, _ in items)
        found.extend(key for key, count in counts.items() if count > 1)
        return dict(items)

    try:
        json.loads(text, object_pairs_hook=pairs)
    except (ValueError, RecursionError):
        return []
    every = lines.of_keys(text)
    return [(key, max((line for keys, line in every.items() if keys[-1] == key), default=None)) for key in found]


RULES = [json_is_readable, keys_are_written_once]
