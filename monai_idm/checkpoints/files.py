"""Checkpoints on the disk: whole or absent, and known to be as they were written."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from monai_idm.atomic_file import atomic_file

__all__ = ["DamagedCheckpoint", "read_checkpoint", "write_checkpoint", "write_weights"]

_CHECKSUM = "checksum"


class DamagedCheckpoint(ValueError):
    """A checkpoint is not what was written."""


def write_checkpoint(file: str | Path, content: Mapping[str, Any]) -> None:
    """Write what checkpoints hold, with its checksum; the file is replaced in one step, when it is on the disk.

    Args:
        file: Its folder is made where it is missing.
        content: Nested mappings and sequences of tensors and plain types.
    """
    write_weights(file, {**content, _CHECKSUM: _checksum(content)})


def write_weights(file: str | Path, content: Mapping[str, Any]) -> None:
    """Write what torch can load, bare; the file is replaced in one step, when it is on the disk."""
    with atomic_file(Path(file)) as unfinished, unfinished.open("wb") as stream:
        try:
            torch.save(content, stream)
        except RuntimeError as error:  # "unexpected pos", where the disk is full
            raise error.__context__ if isinstance(error.__context__, OSError) else error from None


def read_checkpoint(file: str | Path) -> dict[str, Any]:
    """What :func:`write_checkpoint` wrote, on the host.

    Raises:
        DamagedCheckpoint: If it is something else by now, or was never complete.
    """
    with Path(file).open("rb") as stream:
        try:
            content = torch.load(stream, map_location="cpu", weights_only=True)
            found = content.pop(_CHECKSUM)
        except Exception as error:  # a damaged archive makes the readers raise whatever they do
            raise DamagedCheckpoint(f"{file} cannot be read: {error}") from error
    if found != _checksum(content):
        raise DamagedCheckpoint(f"{file} does not hold what was written: its checksum is another")
    return content


def _checksum(content: Any) -> str:
    digest = hashlib.sha256()
    _add(digest, content)
    return digest.hexdigest()


def _add(digest: Any, value: Any) -> None:
    if isinstance(value, Tensor):
        digest.update(repr((value.dtype, value.shape)).encode())
        # by bytes: numpy has no bfloat16
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    elif isinstance(value, Mapping):
        digest.update(b"{")
        for key, item in value.items():
            digest.update(repr(key).encode())
            _add(digest, item)
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
        digest.update(b"[")
        for item in value:
            _add(digest, item)
    else:
        digest.update(repr(value).encode())
