"""A CSV file with a row per epoch, which a resumed run continues."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ignite.engine import Engine

from monai_idm.atomic_file import atomic_file

__all__ = ["append_epoch"]


def append_epoch(file: Path, engine: Engine, figures: Mapping[str, Any]) -> None:
    """Append a row: the epoch, the iteration and the figures. A new file gets a header, and its folder is made.

    Rows of this iteration or a later one are replaced: a run that was killed wrote them after the checkpoint from which
    it is now resumed. Lines that are not rows, such as blank ones, are removed. The file is replaced in one step, so
    that no row is ever half written.

    Args:
        file: The CSV file.
        engine: Engine whose state has the epoch and the iteration.
        figures: Values by column; floats are written with six significant digits, None as an empty cell.
    Raises:
        ValueError: If the file has other columns.
    """
    row = {"epoch": engine.state.epoch, "iteration": engine.state.iteration, **figures}
    header, *earlier = _rows(file) or [list(row)]
    if header != list(row):
        raise ValueError(
            f"{file} has the columns {', '.join(header)}, this run writes {', '.join(row)}; "
            "give csv_file another name or move the old file away"
        )
    new_row = [f"{value:.6g}" if isinstance(value, float) else value for value in row.values()]
    earlier = [old for old in earlier if old[1:2] and old[1].isdecimal() and int(old[1]) < row["iteration"]]
    with atomic_file(file) as unfinished, unfinished.open("w", newline="") as stream:
        csv.writer(stream).writerows([header, *earlier, new_row])


def _rows(file: Path) -> list[list[str]]:
    if not file.is_file():
        return []
    with file.open(newline="") as stream:
        return list(csv.reader(stream))
