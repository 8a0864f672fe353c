"""Reads one value per subject from a CSV file."""

from __future__ import annotations

import csv
import logging
import os
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

__all__ = ["is_missing", "look_up", "read_column"]

_MISSING = {"", "na", "n/a", "nan", "none", "null", "-"}  # what spreadsheets and people write for a missing value
_MAX_LISTED = 5  # names in a message
_Value = TypeVar("_Value")

_logger = logging.getLogger(__name__)


def read_column(
    file: str | os.PathLike[str], columns: Sequence[str], values: str, knob: str, columns_knob: str | None = None
) -> dict[str, str]:
    """Read one value per subject; rows without a subject (NA or empty) are skipped, and a warning is logged.

    Args:
        file: A CSV file with a header, UTF-8.
        columns: Headings of the subject column and of the value column.
        values: What the values are, such as ``classes``, for error messages.
        knob: Name of the knob that holds the file, such as ``class_file``, for error messages.
        columns_knob: Name of the knob that holds ``columns``; None if they are fixed.
    Returns:
        Maps each subject, in NFC, to its value; surrounding spaces are removed from both.
    Raises:
        FileNotFoundError: If the file is missing.
        ValueError: If it is not such a table, a column is missing or occurs twice, no row names a subject, or a
            subject has several values.
    """
    if not Path(file).is_file():
        raise FileNotFoundError(f"{knob} {file} does not exist; it must be a CSV file with a line for each case")
    try:
        with Path(file).open(newline="", encoding="utf-8-sig") as stream:
            lines = [[cell.strip() for cell in line] for line in csv.reader(stream) if line]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{knob} {file} is not a CSV file in UTF-8 ({error}); save it as one") from error
    header, rows = (lines[0], lines[1:]) if lines else ([], [])
    if len(columns) != 2 or any(header.count(column) != 1 for column in columns):
        raise ValueError(
            f"{knob} {file} has the columns {header}, but those of the subjects and of the {values} must be "
            f"{list(columns)}, each exactly once, separated by commas: correct the header"
            f"{f', or {columns_knob}' if columns_knob else ''}"
        )
    cells = [dict(zip(header, row, strict=False)) for row in rows]
    named = [row for row in cells if not is_missing(row.get(columns[0]))]
    if cells and not named:
        raise ValueError(
            f"the column {columns[0]} of {knob} {file} holds NA in every row; "
            f"{columns_knob or 'it'} must name {_candidate_columns(header, cells, columns) if columns_knob else 'them'}"
        )
    if skipped := len(cells) - len(named):
        _logger.warning(
            "%d of %d rows of %s have no %s (NA or empty) and are skipped",
            skipped,
            len(cells),
            file,
            columns[0],
        )
    pairs = {(unicodedata.normalize("NFC", row[columns[0]]), row.get(columns[1], "")) for row in named}
    table = dict(pairs)
    if several := sorted({subject for subject, value in pairs if table[subject] != value}):
        raise ValueError(
            f"{knob} {file} lists several {values} for {', '.join(several[:_MAX_LISTED])}; give each subject one"
        )
    return table


def is_missing(cell: str | None) -> bool:
    """Whether a cell is empty or holds a word for a missing value, such as NA."""
    return cell is None or cell.lower() in _MISSING


def look_up(subject: str, table: Mapping[str, _Value]) -> _Value | None:
    """A subject's value in such a table, or None; the name's accents may be encoded either way."""
    return table.get(subject, table.get(unicodedata.normalize("NFC", subject)))


def _candidate_columns(header: Sequence[str], cells: Sequence[Mapping[str, str]], columns: Sequence[str]) -> str:
    """The columns that may name the subjects: those with a different value in every row."""
    by_column = {column: [row.get(column) for row in cells] for column in header if column and column not in columns}
    unique = [
        name for name, values in by_column.items() if not any(map(is_missing, values)) and len({*values}) == len(cells)
    ]
    return " or ".join(unique) or "a column that holds the subjects"
