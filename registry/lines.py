"""Where something stands in a text file: the line of a key of JSON or TOML, so that a finding can point to it."""

from __future__ import annotations

import json
import re
from functools import lru_cache

Keys = tuple[str | int, ...]  # from the outermost object on; a number is a place in a list
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\],:]|[^\s{}\[\],:"]+', re.DOTALL)

DEEPEST = 12  # no file of ours nests deeper, and a stranger's may nest without end


def at(text: str, position: int) -> int:
    """Return the line, from 1 on, in which a character stands."""
    return text.count("\n", 0, position) + 1


def of_key(text: str, *keys: str | int) -> int | None:
    r"""Return the line of a key of a JSON text; of one that is missing, the line of what should hold it.

    >>> of_key('{"labels": {\n  "background": 0}}', "labels", "background")
    2
    """
    found = of_keys(text)
    return next((found[keys[:end]] for end in range(len(keys), 0, -1) if keys[:end] in found), 1 if text else None)


@lru_cache(maxsize=4)
def of_keys(text: str) -> dict[Keys, int]:
    """Return the line of every key and list item of a JSON text; of a broken one as far as it can be followed."""
    found: dict[Keys, int] = {}
    path: list[str | int] = []  # of each open object the current key, of each open list the current place
    wants_key: list[bool] = []
    line, position = 1, 0
    for match in _TOKEN.finditer(text):
        line, position = line + text.count("\n", position, match.start()), match.start()
        word = match[0]
        if word in "]}":
            if path:
                path.pop(), wants_key.pop()
        elif word == ",":
            if path and isinstance(path[-1], int):
                path[-1] += 1
            elif path:
                wants_key[-1] = True
        elif path and wants_key[-1]:
            path[-1], wants_key[-1] = _text(word), False
            if len(path) <= DEEPEST:
                found[tuple(path)] = line
        elif word != ":":
            if path and isinstance(path[-1], int) and len(path) <= DEEPEST:
                found[tuple(path)] = line
            if word in "{[":
                path.append("" if word == "{" else 0)
                wants_key.append(word == "{")
    return found


def _text(word: str) -> str:
    try:
        return str(json.loads(word))
    except ValueError:
        return word


def of_toml(text: str, table: str, key: str) -> int | None:
    """Return the line of a key in a table of a TOML text as people write it, else that of the table."""
    current, of_table = "", None
    for number, line in enumerate(text.splitlines(), start=1):
        if header := re.match(r"\s*\[([^\[\]]+)\]", line):
            current = header[1].strip()
            of_table = number if current == table else of_table
        elif current == table and re.match(rf"\s*[\"']?{re.escape(key)}[\"']?\s*=", line):
            return number
    return of_table
