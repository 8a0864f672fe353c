"""Reads values of each subject from a CSV file."""

from __future__ import annotations

import csv
import logging
import os
import unicodedata
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

__all__ = ["is_missing", "look_up", "read_column", "read_columns"]

_MISSING = {"", "na", "n/a", "nan", "none", "null", "-"}  # what spreadsheets and people write for a missing value
_MAX_LISTED = 5  # names in a message
_MAX_HEADINGS = 20  # in a message
_Value = TypeVar("_Value")
_Cells = TypeVar("_Cells", bound=Hashable)

_logger = logging.getLogger(__name__)


def read_column(
    file: str | os.PathLike[str], columns: Sequence[str], values: str, knob: str, columns_knob: str | None = None
) -> dict[str, str]:
    """Read one value per subject; rows without a subject (NA or empty) are skipped, and a warning is logged.

    Args:
        file: A CSV or TSV file with a header, UTF-8.
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
    header, rows = _read(file, knob)
    if len(columns) != 2 or any(header.count(column) != 1 for column in columns):
        raise ValueError(
            f"{knob} {file} has the columns {header}, but those of the subjects and of the {values} must be "
            f"{list(columns)}, each exactly once, separated by commas: correct the header"
            f"{f', or {columns_knob}' if columns_knob else ''}"
        )
    cells = [dict(zip(header, row, strict=False)) for row in rows]
    named = _with_subject(file, columns[0], cells)
    if cells and not named:
        raise ValueError(
            f"the column {columns[0]} of {knob} {file} holds NA in every row; "
            f"{columns_knob or 'it'} must name {_candidate_columns(header, cells, columns) if columns_knob else 'them'}"
        )
    return _by_subject(file, knob, values, ((row[columns[0]], row.get(columns[1], "")) for row in named))


def read_columns(
    file: str | os.PathLike[str], columns: Sequence[Any] | None, knob: str, columns_knob: str
) -> dict[str, dict[str, str]]:
    """Read several values per subject, whose name is in the first column; rows without one are skipped with a warning.

    Args:
        file: A CSV or TSV file with a header, UTF-8.
        columns: Headings of the values, as text or numbers; None: all columns but the first.
        knob: Name of the knob that holds the file, for error messages.
        columns_knob: Name of the knob that holds ``columns``.
    Returns:
        Maps each subject, in NFC, to its cells by heading; surrounding spaces are removed, and a row may end early.
    Raises:
        FileNotFoundError: If the file is missing.
        ValueError: If it is not such a table, a column is missing or occurs twice, no row names a subject, or a
            subject has several rows that differ.
    """
    header, rows = _read(file, knob)
    if isinstance(columns, str):
        raise ValueError(
            f"{columns_knob}={columns!r} is a string; give a list, as in --{columns_knob} \"['{columns}']\""
        )
    chosen = header[1:] if columns is None else [str(column) for column in columns]
    if absent := [column for column in chosen if header[1:].count(column) != 1] or not chosen:
        listed = ", ".join(header[1:][:_MAX_HEADINGS]) + (", ..." if len(header) > _MAX_HEADINGS + 1 else "")
        raise ValueError(
            f"{knob} {file} must have {f'the columns {absent}' if chosen else 'columns'} after the first, which names "
            f"the subjects, each exactly once and separated by commas or tabs; its columns are {listed or 'none'}: "
            f"choose from these with {columns_knob}, or correct the header"
        )
    cells = [dict(zip(header, row, strict=False)) for row in rows]
    named = _with_subject(file, header[0], cells)
    if not named:
        raise ValueError(f"no row of {knob} {file} names a subject in its first column, {header[0]}; add them")
    pairs = ((row[header[0]], tuple(row.get(column, "") for column in chosen)) for row in named)
    table = _by_subject(file, knob, "rows", pairs)
    return {subject: dict(zip(chosen, values, strict=True)) for subject, values in table.items()}


def is_missing(cell: str | None) -> bool:
    """Whether a cell is empty or holds a word for a missing value, such as NA."""
    return cell is None or cell.lower() in _MISSING


def look_up(subject: str, table: Mapping[str, _Value]) -> _Value | None:
    """A subject's value in such a table, or None; the name's accents may be encoded either way."""
    return table.get(subject, table.get(unicodedata.normalize("NFC", subject)))


def _read(file: str | os.PathLike[str], knob: str) -> tuple[list[str], list[list[str]]]:
    """The header and the other rows, without spaces around their cells."""
    if not Path(file).is_file():
        raise FileNotFoundError(f"{knob} {file} does not exist; it must be a CSV file with a line for each case")
    try:
        with Path(file).open(newline="", encoding="utf-8-sig") as stream:
            delimiter = "\t" if "\t" in stream.readline() else ","
            stream.seek(0)
            lines = [[cell.strip() for cell in line] for line in csv.reader(stream, delimiter=delimiter) if line]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{knob} {file} is not a CSV file in UTF-8 ({error}); save it as one") from error
    return (lines[0], lines[1:]) if lines else ([], [])


def _with_subject(
    file: str | os.PathLike[str], column: str, cells: Sequence[Mapping[str, str]]
) -> list[Mapping[str, str]]:
    named = [row for row in cells if not is_missing(row.get(column))]
    if skipped := len(cells) - len(named):
        _logger.warning(
            "%d of %d rows of %s have no %s (NA or empty) and are skipped", skipped, len(cells), file, column
        )
    return named


def _by_subject(
    file: str | os.PathLike[str], knob: str, values: str, rows: Iterable[tuple[str, _Cells]]
) -> dict[str, _Cells]:
    pairs = {(unicodedata.normalize("NFC", subject), cells) for subject, cells in rows}
    table = dict(sorted(pairs))
    if several := sorted({subject for subject, cells in pairs if table[subject] != cells}):
        raise ValueError(
            f"{knob} {file} lists several {values} for {', '.join(several[:_MAX_LISTED])}; give each subject one"
        )
    return table


def _candidate_columns(header: Sequence[str], cells: Sequence[Mapping[str, str]], columns: Sequence[str]) -> str:
    """The columns that may name the subjects: those with a different value in every row."""
    by_column = {column: [row.get(column) for row in cells] for column in header if column and column not in columns}
    unique = [
        name for name, values in by_column.items() if not any(map(is_missing, values)) and len({*values}) == len(cells)
    ]
    return " or ".join(unique) or "a column that holds the subjects"
