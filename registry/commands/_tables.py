"""Aligned text for terminals."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


FEWEST = 8  # characters that are left of a column that gives way


def aligned(rows: Sequence[Sequence[str]], *, numbers: bool = False, width: int | None = None) -> list[str]:
    """Return the rows with aligned columns; with `numbers` all columns but the first are aligned to the right.

    With `width` the last column is cut short where a line would be longer.
    """
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [f"{cell:>{width}}" if numbers else f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)]
        lines.append("  ".join([f"{row[0]:<{widths[0]}}", *cells[1:]]).rstrip())
    if width is None:
        return lines
    longest = max(width, sum(widths[:-1]) + 2 * len(widths[:-1]) + FEWEST)
    return [line if len(line) <= longest else f"{line[: longest - 1].rstrip()}…" for line in lines]
