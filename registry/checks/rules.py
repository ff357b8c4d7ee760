"""What a rule is: a small function with a code and a level that yields what it finds."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from registry.errors import MregError
from registry.findings import Finding, Level

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from registry.tree import Tree

Subject = TypeVar("Subject")


@dataclass(frozen=True)
class Rule(Generic[Subject]):
    """A function on one kind of target, with the code and level of its findings."""

    code: str
    level: Level
    function: Callable[[Subject], Iterable[tuple[str, str, str]]]

    @property
    def summary(self) -> str:
        """Return what the rule wants, in a line."""
        return (self.function.__doc__ or "").strip().splitlines()[0]

    def run(self, subject: Subject) -> Iterator[Finding]:
        """Yield the findings; what cannot be read is one, too."""
        try:
            for path, message, hint in self.function(subject):
                where, said = printable(path), printable(message)
                yield Finding(code=self.code, level=self.level, path=where, message=said, hint=printable(hint))
        except MregError as error:
            yield Finding(code=self.code, level=self.level, message=error.message, hint=error.hint)


def rule(
    code: str, level: Level = "error"
) -> Callable[[Callable[[Subject], Iterable[tuple[str, str, str]]]], Rule[Subject]]:
    """Make a rule of a function that yields (path, message, hint)."""
    return lambda function: Rule(code, level, function)


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
