"""Tables as people keep them: comma- or tab-separated text with a line of column names."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

from registry.errors import IntegrityError, NotFoundError

if TYPE_CHECKING:
    from pathlib import Path

ENDINGS = (".csv", ".tsv")
UNKNOWN = ("", "n/a", "N/A", "NA", "NaN", "nan")  # what tables write where a value is not known; n/a is BIDS'


@dataclass(frozen=True, kw_only=True)
class Row:
    """A line of the table."""

    number: int  # as editors and spreadsheets count, the names of the columns being row 1
    values: dict[str, str]  # column → text, without spaces around it


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table and where it lies."""

    path: Path
    columns: tuple[str, ...]
    rows: tuple[Row, ...]

    def place(self, row: Row, column: str) -> str:
        """Return where a value stands, for messages."""
        return f"{self.path}: row {row.number}, column {column}"

    def require(self, columns: list[str]) -> None:
        """Raise `NotFoundError` unless all columns are there."""
        if absent := [column for column in columns if column not in self.columns]:
            raise NotFoundError(
                f"{self.path}: no column {', '.join(absent)}", hint=f"there are: {', '.join(self.columns)}"
            )


def read_table(path: Path) -> Table:
    """Read a table, .tsv by tabs and others by commas; lines of nothing are passed over.

    Raises `IntegrityError` for a file that is no table, with all of its rows of another length.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")  # spreadsheets put a mark in front
    except FileNotFoundError:
        raise NotFoundError(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        raise IntegrityError(f"{path}: not UTF-8: {error}", hint="save the table as UTF-8") from error
    delimiter = "\t" if path.name.endswith(".tsv") else ","
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        lines = [(reader.line_num, [cell.strip() for cell in line]) for line in reader]
    except csv.Error as error:
        raise IntegrityError(f"{path}: row {reader.line_num}: {error}", hint="mend the quotation marks") from error
    found = [(row, cells) for row, cells in lines if any(cells)]
    if not found:
        raise IntegrityError(f"{path}: an empty table", hint="its first line names the columns")
    columns = found[0][1]
    _require_names(path, columns)
    wrong = [f"{path}: row {row}: {len(cells)} values" for row, cells in found[1:] if len(cells) != len(columns)]
    if wrong:
        raise IntegrityError(
            "\n".join(wrong), hint=f"a row has {len(columns)} values, as many as there are columns; quote commas"
        )
    rows = tuple(Row(number=row, values=dict(zip(columns, cells, strict=True))) for row, cells in found[1:])
    return Table(path=path, columns=tuple(columns), rows=rows)


def _require_names(path: Path, columns: list[str]) -> None:
    if len(columns) == 1 and ";" in columns[0]:
        raise IntegrityError(f"{path}: separated by semicolons", hint="save it with commas, or as .tsv with tabs")
    for number, column in enumerate(columns, start=1):
        if not column:
            raise IntegrityError(f"{path}: row 1: column {number} has no name", hint="name or remove it")
        if columns.count(column) > 1:
            raise IntegrityError(f"{path}: row 1: two columns are named {column!r}", hint="rename one")
