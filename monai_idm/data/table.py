"""Reads what a CSV file says of each subject."""

from __future__ import annotations

import csv
import logging
import os
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

__all__ = ["is_missing", "look_up", "read_column"]

_MISSING = {"", "na", "n/a", "nan", "none", "null", "-"}  # what spreadsheets and their owners write for "nothing"
_NAMED = 5
_Value = TypeVar("_Value")

_logger = logging.getLogger(__name__)


def read_column(
    file: str | os.PathLike[str], columns: Sequence[str], values: str, knob: str, columns_knob: str | None = None
) -> dict[str, str]:
    """One value for each subject; rows that name no subject (NA or empty) are passed over, which is logged.

    Args:
        file: A CSV file with a header, UTF-8.
        columns: Headings of the subject and of its value.
        values: What the values are, as ``classes``, for errors.
        knob: What the user calls the file, as ``class_file``, for errors.
        columns_knob: What the user calls ``columns``; None: they are always the same.
    Returns:
        Subject, in NFC, to value; both without spaces around them.
    Raises:
        FileNotFoundError: If the file is missing.
        ValueError: If it is no such table, a column is missing or there twice, no row names a subject, or a subject
            has several values.
    """
    if not Path(file).is_file():
        raise FileNotFoundError(f"{knob} {file} does not exist; it must be a CSV file with a line for each case")
    try:
        with Path(file).open(newline="", encoding="utf-8-sig") as stream:
            lines = [[cell.strip() for cell in line] for line in csv.reader(stream) if line]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{knob} {file} is no CSV file in UTF-8 ({error}); save it as such") from error
    header, rows = (lines[0], lines[1:]) if lines else ([], [])
    if len(columns) != 2 or any(header.count(column) != 1 for column in columns):
        raise ValueError(
            f"{knob} {file} has the columns {header}, and those of the subjects and of the {values} must be "
            f"{list(columns)}, each there once, separated by commas: correct the header"
            f"{f', or {columns_knob}' if columns_knob else ''}"
        )
    cells = [dict(zip(header, row, strict=False)) for row in rows]
    named = [row for row in cells if not is_missing(row.get(columns[0]))]
    if cells and not named:
        raise ValueError(
            f"the column {columns[0]} of {knob} {file} holds NA in every row; "
            f"{columns_knob or 'it'} must name {_naming(header, cells, columns) if columns_knob else 'them'}"
        )
    if passed_over := len(cells) - len(named):
        _logger.warning(
            "%d of %d rows of %s have no %s (NA or empty) and are passed over",
            passed_over,
            len(cells),
            file,
            columns[0],
        )
    pairs = {(unicodedata.normalize("NFC", row[columns[0]]), row.get(columns[1], "")) for row in named}
    found = dict(pairs)
    if several := sorted({subject for subject, value in pairs if found[subject] != value}):
        raise ValueError(
            f"{knob} {file} gives several {values} to {', '.join(several[:_NAMED])}; give each subject one"
        )
    return found


def is_missing(cell: str | None) -> bool:
    """Whether a cell holds nothing, or a word for it, as NA."""
    return cell is None or cell.lower() in _MISSING


def look_up(subject: str, table: Mapping[str, _Value]) -> _Value | None:
    """A subject's value in such a table, however the accents of its name are encoded, or None."""
    return table.get(subject, table.get(unicodedata.normalize("NFC", subject)))


def _naming(header: Sequence[str], cells: Sequence[Mapping[str, str]], columns: Sequence[str]) -> str:
    """Which columns might name the subjects: those with another value in every row."""
    held = {column: [row.get(column) for row in cells] for column in header if column and column not in columns}
    naming = [name for name, got in held.items() if not any(map(is_missing, got)) and len({*got}) == len(cells)]
    return " or ".join(naming) or "a column that holds the subjects"
