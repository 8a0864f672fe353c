"""Write and read checkpoints that are complete or absent, and verified to be as they were written."""

from __future__ import annotations

import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from monai_idm.atomic_file import atomic_file

__all__ = ["DamagedFile", "read_checkpoint", "require_sound", "write_checkpoint"]


class DamagedFile(ValueError):
    """A file has changed since it was written, or is incomplete."""


def write_checkpoint(file: str | Path, content: Mapping[str, Any]) -> None:
    """``torch.save``, but the file is replaced in one step, once it is on the disk.

    Args:
        file: Path of the file; its folder is created if it is missing.
        content: Tensors and plain types; tensors of a GPU are written as tensors of the host, so that a machine without
            one can load them.
    Raises:
        OSError: If the disk is full, or the folder may not be written to; the previous file stays.
    """
    with atomic_file(Path(file)) as unfinished, unfinished.open("wb") as stream:
        try:
            torch.save(_on_host(content), stream)
        except RuntimeError as error:  # torch says "unexpected pos" if the disk is full
            raise error.__context__ if isinstance(error.__context__, OSError) else error from None


def _on_host(content: Any) -> Any:
    if isinstance(content, Tensor):
        return content.cpu()
    if isinstance(content, list | tuple):
        return type(content)(map(_on_host, content))
    if not isinstance(content, Mapping):
        return content
    moved = {name: _on_host(value) for name, value in content.items()}
    if not hasattr(content, "_metadata"):
        return moved
    state_dict = OrderedDict(moved)
    state_dict._metadata = content._metadata  # type: ignore[attr-defined] # record and arguments of the network
    return state_dict


def read_checkpoint(file: str | Path, mmap: bool = False) -> dict[str, Any]:
    """Load a file of ``torch.save`` onto the host: tensors and plain types, never objects of other classes.

    Args:
        file: The checkpoint. It is read twice, because ``torch.load`` itself does not notice flipped bits.
        mmap: Leave tensors in the file until they are used.
    Raises:
        DamagedFile: If the file has changed since it was written, is incomplete, or holds other objects.
    """
    require_sound(file)
    try:
        return torch.load(file, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:  # damaged archives raise all kinds of errors
        raise DamagedFile(f"{file} cannot be read: {error}") from error


def require_sound(file: str | Path) -> None:
    """Check all parts of a file that ``torch.save`` wrote, a ZIP archive, against their checksums.

    Args:
        file: Path of the file.
    Raises:
        DamagedFile: If a checksum does not match, or the file is not a complete archive.
    """
    with Path(file).open("rb") as stream:
        try:
            with zipfile.ZipFile(stream) as archive:
                damaged = archive.testzip()
        except Exception as error:
            raise DamagedFile(f"{file} cannot be read: {error}") from error
    if damaged is not None:
        raise DamagedFile(f"{file} is damaged: the checksum of its {damaged} does not match")
