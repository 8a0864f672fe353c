"""Files that are whole or absent."""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

__all__ = ["atomic_file", "write_json"]


_WAYS_OUT = {
    (errno.ENOSPC, errno.EDQUOT, errno.EFBIG): "Make room on that disk, then go on: a training with --resume true",
    (errno.EACCES, errno.EPERM, errno.EROFS): "Give a folder that you may write to, as --output_dir or --ckpt_dir",
}


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Give a temporary name beside ``path`` to write to, and rename it at the end.

    A reader sees the old file or the new one, never half of it, also after the machine has lost its power. If the block
    raises, the old file stays.

    Args:
        path: The file wanted; its folder is made where it is missing.
    Raises:
        OSError: If there is no room, or no right to write; says what to do.
    """
    # hidden, by process, and with the ending that tells writers the format
    unfinished = path.with_name(f".unfinished.{os.getpid()}.{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield unfinished
        _flush(unfinished)
        os.replace(unfinished, path)
        _flush(path.parent)
    except OSError as error:
        for numbers, way_out in _WAYS_OUT.items():
            if error.errno in numbers:
                said = f"cannot write {path} ({error.strerror}); what was there before is as it was. {way_out}"
                raise OSError(error.errno, said) from None
        raise
    finally:
        with suppress(OSError):
            unfinished.unlink()


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file as a whole, for people too: indented.

    Args:
        path: As for :func:`atomic_file`.
        content: Of plain types; what is not finite becomes null.
    """
    with atomic_file(path) as unfinished:
        unfinished.write_text(json.dumps(_finite(content), indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _flush(path: Path) -> None:
    """To the disk itself; a folder keeps the names of its files, and only POSIX can flush it."""
    if path.is_dir() and os.name != "posix":
        return
    opened = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _finite(value: Any) -> Any:
    """JSON knows neither infinity (the PSNR of equal images) nor nan."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
