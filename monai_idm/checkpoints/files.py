"""Checkpoints on the disk: whole or absent, and known to be as they were written."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from monai_idm.atomic_file import atomic_file

__all__ = ["DamagedFile", "read_checkpoint", "require_sound", "write_checkpoint"]


class DamagedFile(ValueError):
    """A file is not what was written."""


def write_checkpoint(file: str | Path, content: Mapping[str, Any]) -> None:
    """``torch.save``, but the file is replaced in one step, when it is on the disk; its folder is made if missing."""
    with atomic_file(Path(file)) as unfinished, unfinished.open("wb") as stream:
        try:
            torch.save(content, stream)
        except RuntimeError as error:  # "unexpected pos", where the disk is full
            raise error.__context__ if isinstance(error.__context__, OSError) else error from None


def read_checkpoint(file: str | Path, mmap: bool = False) -> dict[str, Any]:
    """What ``torch.save`` wrote, on the host: tensors and plain types, never objects of other classes.

    Args:
        file: Read twice, because ``torch.load`` itself takes flipped bits for weights.
        mmap: Leave tensors in the file until somebody looks at them.
    Raises:
        DamagedFile: If it is something else by now, was never complete, or holds other objects.
    """
    require_sound(file)
    try:
        return torch.load(file, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:  # a damaged archive makes the readers raise whatever they do
        raise DamagedFile(f"{file} cannot be read: {error}") from error


def require_sound(file: str | Path) -> None:
    """Compare all parts of what ``torch.save`` wrote with their checksums: it writes ZIP archives.

    Raises:
        DamagedFile: If one differs, or the file is no whole archive.
    """
    with Path(file).open("rb") as stream:
        try:
            with zipfile.ZipFile(stream) as archive:
                damaged = archive.testzip()
        except Exception as error:
            raise DamagedFile(f"{file} cannot be read: {error}") from error
    if damaged is not None:
        raise DamagedFile(f"{file} does not hold what was written: the checksum of its {damaged} is another")
