"""What a rule is: a small function with a code and a level that yields what it finds."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from registry import lines
from registry.errors import MregError
from registry.findings import Finding, Level

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from registry.tree import Tree

Subject = TypeVar("Subject")
Draft = tuple[str, str, str] | tuple[str, str, str, int | None]  # path, message, hint, and the line where one is known


@dataclass(frozen=True)
class Rule(Generic[Subject]):
    """A function on one kind of target, with the code and level of its findings."""

    code: str
    level: Level
    function: Callable[[Subject], Iterable[Draft]]

    @property
    def summary(self) -> str:
        """Return what the rule wants, in a line."""
        return (self.function.__doc__ or "").strip().splitlines()[0]

    def run(self, subject: Subject) -> Iterator[Finding]:
        """Yield the findings; what cannot be read is one, too."""
        try:
            for path, message, hint, *line in self.function(subject):
                yield Finding(
                    code=self.code,
                    level=self.level,
                    path=printable(path),
                    line=line[0] if line else None,
                    message=printable(message),
                    hint=printable(hint),
                )
        except MregError as error:
            yield Finding(code=self.code, level=self.level, message=error.message, hint=error.hint)


def rule(code: str, level: Level = "error") -> Callable[[Callable[[Subject], Iterable[Draft]]], Rule[Subject]]:
    """Make a rule of a function that yields (path, message, hint) or (path, message, hint, line)."""
    return lambda function: Rule(code, level, function)


def text_of(tree: Tree, path: str) -> str:
    """Return a file's text, "" where it is missing or cannot be read."""
    try:
        return tree.read_text(path) if tree.exists(path) else ""
    except MregError:
        return ""


def line_of(tree: Tree, path: str, *keys: str | int) -> int | None:
    """Return the line of a key of a JSON file, None where the file does not say."""
    return lines.of_key(text_of(tree, path), *keys)


def read_object(tree: Tree, path: str) -> dict[str, Any] | None:
    """Return a JSON object of a tree, None where it is missing or something else (JSON001 says so)."""
    if not tree.exists(path):
        return None
    try:
        document = json.loads(tree.read_bytes(path))
    except (ValueError, RecursionError, MregError):
        return None
    return document if isinstance(document, dict) else None


def printable(name: str) -> str:
    """Return a name from a stranger's file with everything escaped that a terminal or a program could stumble over."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in name)
