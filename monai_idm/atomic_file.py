"""Write files that are complete or absent."""

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
    (errno.ENOSPC, errno.EDQUOT, errno.EFBIG): "Make room on that disk, then run again (training with --resume true)",
    (errno.EACCES, errno.EPERM, errno.EROFS): "Choose a folder that you may write to, with --output_dir or --ckpt_dir",
}


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the folder of ``path`` to write to, and rename it to ``path`` at the end.

    A reader sees the old file or the new one, never half of it, even after a power failure. If the block raises an
    error, the old file stays.

    Args:
        path: The file to write; its folder is made if missing.
    Raises:
        OSError: If the disk is full or the folder not writable; the message says what to do.
    """
    # hidden, different for every process, and with the suffix from which writers infer the format
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
                message = f"cannot write {path} ({error.strerror}); the previous file, if any, is unchanged. {way_out}"
                raise OSError(error.errno, message) from None
        raise
    finally:
        with suppress(OSError):
            unfinished.unlink()


def write_json(path: Path, content: Any) -> None:
    """Write an indented JSON file that is complete or absent.

    Args:
        path: The file to write; see :func:`atomic_file`.
        content: Plain types; NaN and infinite values become null.
    """
    with atomic_file(path) as unfinished:
        unfinished.write_text(json.dumps(_finite(content), indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _flush(path: Path) -> None:
    """Flush a file, or the names of the files in a folder, to the disk itself; only POSIX can flush a folder."""
    if path.is_dir() and os.name != "posix":
        return
    opened = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _finite(value: Any) -> Any:
    """Replace NaN and infinity (the PSNR of equal images), which JSON does not have, by None."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
