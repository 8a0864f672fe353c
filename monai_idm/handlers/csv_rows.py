"""A CSV file that grows by a row per epoch, also over several runs."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ignite.engine import Engine

from monai_idm.atomic_file import atomic_file

__all__ = ["append_epoch"]


def append_epoch(file: Path, engine: Engine, figures: Mapping[str, Any]) -> None:
    """Append the figures of an epoch, behind its number and iteration; a new file gets header and folder.

    The file is replaced in one step: no row is ever half written.

    Args:
        file: To append to.
        engine: Whose epoch it is.
        figures: Values by column; floats are written with six digits, None as nothing.
    Raises:
        ValueError: If the file holds other columns.
    """
    row = {"epoch": engine.state.epoch, "iteration": engine.state.iteration, **figures}
    header = _header(file)
    if header is not None and header != list(row):
        raise ValueError(
            f"{file} has the columns {', '.join(header)}, this run writes {', '.join(row)}; "
            "give csv_file another name or move the old file away"
        )
    earlier = "" if header is None else file.read_bytes().decode()
    with atomic_file(file) as unfinished, unfinished.open("w", newline="") as stream:
        stream.write(earlier)
        writer = csv.DictWriter(stream, row)
        if header is None:
            writer.writeheader()
        writer.writerow({name: f"{value:.6g}" if isinstance(value, float) else value for name, value in row.items()})


def _header(file: Path) -> list[str] | None:
    if not file.is_file():
        return None
    with file.open(newline="") as stream:
        return next(csv.reader(stream), None)
