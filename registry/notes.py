"""The notes of a release: prose for people, and one block that programs read and edit.

The block is an HTML comment, which GitHub does not show:

    <!-- mreg
    {"version": 1, "yanked": "", "mirrors": []}
    -->

The notes of a release can be edited after publication, its assets cannot. So what may change later stands here and
everything else in the manifest; the block repeats a few of the manifest's facts for lists, which read no asset.
What a person writes around the generated part stays.
"""

from __future__ import annotations

import html
import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from registry import output
from registry.errors import IntegrityError
from registry.stores import INDEX_BLOCK

if TYPE_CHECKING:
    from registry.stores import Release

VERSION = 1
_BLOCK = re.compile(rf"<!--[ \t]*{INDEX_BLOCK}[ \t]*\r?\n(.*?)\r?\n?[ \t]*-->", re.DOTALL)
_START, _END = "<!-- mreg:release -->", "<!-- /mreg:release -->"
_WARNING_START, _WARNING_END = "<!-- mreg:yanked -->", "<!-- /mreg:yanked -->"
_WARNING = re.compile(rf"{re.escape(_WARNING_START)}.*?{re.escape(_WARNING_END)}(\r?\n){{0,2}}", re.DOTALL)
_GENERATED = re.compile(rf"{re.escape(_START)}.*?{re.escape(_END)}", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Block:
    """What programs know about a release from its notes alone."""

    yanked: str = ""  # the reason, "" while the release is good
    mirrors: tuple[str, ...] = ()  # other addresses of the archive
    archive: str = ""  # name of the asset
    orientation: str = ""  # SCT's letters
    labels: tuple[str, ...] = ()  # without background
    other: dict[str, Any] = field(default_factory=dict)  # keys of later versions, kept as they are


def format_block(block: Block) -> str:
    """Return the block as it stands in the notes.

    `<` and `>` are escaped: no value can end the comment, or look like a tag to GitHub.
    """
    document = {
        **block.other,
        "version": VERSION,
        "archive": block.archive,
        "orientation": block.orientation,
        "labels": list(block.labels),
        "yanked": block.yanked,
        "mirrors": list(block.mirrors),
    }
    text = json.dumps(document, indent=2, sort_keys=True)
    return f"<!-- {INDEX_BLOCK}\n{text.replace('<', chr(92) + 'u003c').replace('>', chr(92) + 'u003e')}\n-->"


def parse_block(notes: str) -> Block:
    """Read the first block of the notes; an empty one where there is none.

    Raises `IntegrityError` for a block that a person has broken.
    """
    found = _BLOCK.search(notes)
    if not found:
        return Block()
    try:
        document = dict(json.loads(found[1]))
        known = {name: _text(document, name) for name in ("yanked", "archive", "orientation")}
        lists = {name: _texts(document, name) for name in ("mirrors", "labels")}
    except (ValueError, TypeError, RecursionError) as error:
        raise IntegrityError(f"the block <!-- {INDEX_BLOCK} of the release's notes cannot be read: {error}") from error
    other = {key: value for key, value in document.items() if key not in (*known, *lists, "version")}
    return Block(**known, **lists, other=other)  # type: ignore[arg-type]


def write_block(notes: str, block: Block) -> str:
    """Put the block into the notes, in the place of the first one; everything else stays, further blocks go."""
    text = format_block(block)
    found = _BLOCK.search(notes)
    if not found:
        return _append(notes, text)
    return notes[: found.start()] + text + _BLOCK.sub("", notes[found.end() :])


def write_generated(notes: str, generated: str) -> str:
    """Put the generated part into the notes, after what a person wrote there or in the place of an earlier one."""
    part = f"{_START}\n{generated.strip()}\n{_END}"
    if _GENERATED.search(notes):
        return _GENERATED.sub(lambda _: part, notes, count=1)
    return _append(notes, part)


def write_warning(notes: str, reason: str) -> str:
    """Put a warning that people see at the top of the notes, or take it away where `reason` is empty."""
    rest = _WARNING.sub("", notes, count=1)
    if not reason:
        return rest
    # One line, in which nothing is a tag or the end of the warning.
    plain = re.sub(r"([\\`*_~|\[\]@#])", r"\\\1", html.escape(" ".join(reason.split()), quote=False))
    return f"{_WARNING_START}\n> **Withdrawn: do not use this release.** {plain}\n{_WARNING_END}\n\n{rest}"


def block_of(release: Release) -> Block:
    """Read a release's block; a broken one is told and read as empty, since a list must not end there."""
    try:
        return parse_block(release.notes)
    except IntegrityError as error:
        output.warn(f"{release.repo}@{release.tag}: {error.message}")
        return Block()


def _append(notes: str, part: str) -> str:
    before = notes.rstrip()
    return f"{before}\n\n{part}\n" if before else f"{part}\n"


def _text(document: dict[str, Any], name: str) -> str:
    value = document.get(name) or ""
    if not isinstance(value, str):
        raise ValueError(f"{name} = {value!r} is not a text")  # noqa: TRY004
    return value


def _texts(document: dict[str, Any], name: str) -> tuple[str, ...]:
    value = document.get(name) or []
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError(f"{name} = {value!r} is not a list of texts")
    return tuple(value)
