"""A CSV file that grows by a row per epoch, also when a training goes on."""

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

    Rows of this iteration and of later ones are replaced: a training that was killed wrote them behind the checkpoint
    that it now goes on from. Lines that are no rows, as blank ones, go. The file is replaced in one step: no row is
    ever half written.

    Args:
        file: To append to.
        engine: Whose epoch it is.
        figures: Values by column; floats are written with six digits, None as nothing.
    Raises:
        ValueError: If the file holds other columns.
    """
    row = {"epoch": engine.state.epoch, "iteration": engine.state.iteration, **figures}
    header, *earlier = _rows(file) or [list(row)]
    if header != list(row):
        raise ValueError(
            f"{file} has the columns {', '.join(header)}, this run writes {', '.join(row)}; "
            "give csv_file another name or move the old file away"
        )
    now = [f"{value:.6g}" if isinstance(value, float) else value for value in row.values()]
    kept = [past for past in earlier if past[1:2] and past[1].isdecimal() and int(past[1]) < row["iteration"]]
    with atomic_file(file) as unfinished, unfinished.open("w", newline="") as stream:
        csv.writer(stream).writerows([header, *kept, now])


def _rows(file: Path) -> list[list[str]]:
    if not file.is_file():
        return []
    with file.open(newline="") as stream:
        return list(csv.reader(stream))
