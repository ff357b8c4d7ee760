"""What was probably meant by a word, a key or a path that is not there."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

MOST = 3  # suggestions


def meant(word: str, known: Iterable[str]) -> str:
    """Return "did you mean X?" for the nearest known word, or nothing.

    >>> meant("epoch", ["epochs", "seed"])
    'did you mean epochs?'
    >>> meant("colour", ["epochs", "seed"])
    ''
    """
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"did you mean {near[0]}?" if near else ""


def meant_path(path: Path) -> str:
    """Return "did you mean X?" for the files and folders beside it whose names are nearest, or nothing."""
    try:
        names = [item.name for item in path.parent.iterdir()]
    except OSError:
        return ""
    near = difflib.get_close_matches(path.name, names, n=MOST)
    return f"did you mean {' or '.join(str(path.parent / name) for name in near)}?" if near else ""
