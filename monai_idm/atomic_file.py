"""Files that are whole or absent."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["atomic_file"]


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Give a temporary name beside ``path`` to write to, and rename it at the end.

    A reader sees the old file or the new one, never half of it. If the block raises, the old file stays.

    Args:
        path: The file wanted; its folder is made where it is missing.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # hidden, by process, and with the ending that tells writers the format
    unfinished = path.with_name(f".unfinished.{os.getpid()}.{path.name}")
    try:
        yield unfinished
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
