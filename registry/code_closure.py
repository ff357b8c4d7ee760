"""The modules of `trainers` that one of them needs, to travel with a model under another package's name."""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING

from registry.errors import MregError
from trainers.catalog import HERE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

ROOT = HERE.name


def closure(entries: Iterable[str]) -> tuple[dict[str, str], set[str]]:
    """Return the source of every module that is imported when the entries are, and the names of foreign packages.

    Sources are named by their path from the folder that holds `trainers`. What a function imports when it is called is
    not followed: name it as an entry where it is needed.
    """
    sources: dict[str, str] = {}
    foreign: set[str] = set()
    waiting = list(entries)
    while waiting:
        module = waiting.pop()
        path = _path(module)
        name = path.relative_to(HERE.parent).as_posix()
        if name in sources:
            continue
        sources[name] = path.read_text(encoding="utf-8")
        waiting += [parent for parent in _parents(module) if parent != module]
        for imported in _imports(ast.parse(sources[name])):
            if imported.partition(".")[0] == ROOT:
                waiting.append(imported)
            else:
                foreign.add(imported.partition(".")[0])
    return sources, foreign


def rename(source: str, package: str) -> str:
    """Return a source whose imports from `trainers` are those from PACKAGE.trainers; nothing else changes.

    >>> rename("from trainers.core import files", "model_x")
    'from model_x.trainers.core import files'
    """
    if re.search(rf"^\s*import {ROOT}\b", source, re.MULTILINE):
        raise MregError(
            f"import {ROOT}… binds a name that a package cannot have", hint=f"write: from {ROOT}.x import y"
        )
    return re.sub(rf"^(\s*from ){ROOT}\b", rf"\1{package}.{ROOT}", source, flags=re.MULTILINE)


def _path(module: str) -> Path:
    place = HERE.parent.joinpath(*module.split("."))
    file = place.with_suffix(".py")
    return file if file.is_file() else place / "__init__.py"


def _parents(module: str) -> Iterator[str]:
    parts = module.split(".")
    return (".".join(parts[:number]) for number in range(1, len(parts)))


def _imports(node: ast.AST) -> Iterator[str]:
    """Yield what a module imports when it is imported: not in functions, nor for type checkers."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or _for_checkers(child):
            continue
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom) and child.module:
            named = [f"{child.module}.{alias.name}" for alias in child.names]
            yield child.module
            yield from (name for name in named if name.partition(".")[0] == ROOT and _path(name).is_file())
        yield from _imports(child)


def _for_checkers(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
