"""Rules on what must not be told: places and people of the machine that trained."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from registry import scrub
from registry.checks.rules import read_object, rule
from registry.errors import MregError
from registry.tree import LARGEST_TEXT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from registry.findings import Finding
    from registry.tree import Tree

Draft = tuple[str, str, str]
TEXTS = (".json", ".txt", ".py", ".md", ".toml", ".yml", ".yaml", ".cff", ".log", ".csv", ".tsv")
EMAIL = re.compile(r"\b[\w.+-]+@[\w-]+(?:\.[\w-]+)*\.[a-z]{2,}\b")
HOME = re.compile(r"(?:/home|/Users|[A-Za-z]:\\+Users)[/\\]+[\w.-]+")
PNG_TEXT = (b"tEXt", b"iTXt", b"zTXt", b"eXIf")


def _texts(tree: Tree) -> Iterator[tuple[str, str]]:
    for path in tree.files():
        if path.lower().endswith(TEXTS):
            try:
                yield path, tree.read_text(path)
            except MregError:
                continue  # JSON001 and the archive's rules say that it cannot be read


@rule("PRIVACY001")
def no_home_folders(tree: Tree) -> Iterator[Draft]:
    """No text names a home folder."""
    for path, text in _texts(tree):
        for found in sorted({match[0] for match in HOME.finditer(text)})[:3]:
            yield path, f"names a home folder: {found}", "mreg package takes paths out"


@rule("PRIVACY002", "warning")
def no_absolute_paths(tree: Tree) -> Iterator[Draft]:
    """No JSON file or log names an absolute path."""
    for path, text in _texts(tree):
        if path.endswith((".json", ".txt", ".log")) and scrub.paths(text) != text and not HOME.search(text):
            yield path, "holds absolute paths", "mreg package takes them out"


@rule("PRIVACY003", "warning")
def no_addresses(tree: Tree) -> Iterator[Draft]:
    """No JSON file or log holds an e-mail address."""
    for path, text in _texts(tree):
        if path.endswith((".json", ".txt", ".log")):
            for found in sorted(set(EMAIL.findall(text)))[:3]:
                yield path, f"holds an e-mail address: {found}", "take it out"


@rule("PRIVACY004", "warning")
def no_text_in_pictures(tree: Tree) -> Iterator[Draft]:
    """No PNG carries text."""
    for path in tree.files():
        if path.endswith(".png") and tree.size(path) <= LARGEST_TEXT:
            data = tree.read_bytes(path)
            kinds = [kind.decode() for kind in PNG_TEXT if kind in data]
            if kinds and data.startswith(scrub.PNG_START):
                yield path, f"carries text ({', '.join(kinds)})", "mreg package takes it out"


@rule("PRIVACY005")
def no_case_lists(tree: Tree) -> Iterator[Draft]:
    """No dataset.json lists cases."""
    for path in tree.files():
        if path.rpartition("/")[2] == "dataset.json":
            document = read_object(tree, path) or {}
            listed = [key for key in scrub.CASE_LISTS if document.get(key)]
            if listed:
                yield path, f"lists cases under {', '.join(listed)}", "mreg package leaves the lists out"


@rule("PRIVACY006")
def no_host(tree: Tree) -> Iterator[Draft]:
    """No debug.json names the computer that trained."""
    for path in tree.files():
        if path.rpartition("/")[2] == "debug.json":
            host = (read_object(tree, path) or {}).get("hostname")
            if host:
                yield path, f"names the computer: {host}", "mreg package leaves it out"


RULES = [no_home_folders, no_absolute_paths, no_addresses, no_text_in_pictures, no_case_lists, no_host]


def findings(tree: Tree) -> Iterator[Finding]:
    """Yield what would be told."""
    for entry in RULES:
        yield from entry.run(tree)
