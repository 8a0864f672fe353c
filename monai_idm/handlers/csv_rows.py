"""A CSV file that grows row by row, also over several runs."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["append_row"]


def append_row(file: Path, row: Mapping[str, Any]) -> None:
    """Append a row and flush it; a new file gets a header and its folder first.

    Args:
        file: To append to.
        row: Values by column; floats are written with six digits, None as nothing.
    Raises:
        ValueError: If the file holds other columns.
    """
    header = _header(file)
    if header is not None and header != list(row):
        raise ValueError(
            f"{file} has the columns {', '.join(header)}, this run writes {', '.join(row)}; "
            "give csv_file another name or move the old file away"
        )
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a", newline="") as stream:
        writer = csv.DictWriter(stream, row)
        if header is None:
            writer.writeheader()
        writer.writerow({name: f"{value:.6g}" if isinstance(value, float) else value for name, value in row.items()})


def _header(file: Path) -> list[str] | None:
    if not file.is_file():
        return None
    with file.open(newline="") as stream:
        return next(csv.reader(stream), None)
