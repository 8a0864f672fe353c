"""Caches preprocessed volumes on disk, across epochs and runs."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import PersistentDataset, pickle_hashing
from monai.transforms import convert_to_contiguous
from monai.utils import TraceKeys

from monai_idm.checkpoints import DamagedFile, read_checkpoint, write_checkpoint
from monai_idm.version import __version__

__all__ = ["CheckedPersistentDataset"]

# MONAI allows its MetaTensor in files that are loaded as plain data; its metadata holds NumPy's arrays and scalars.
_CODES = {*np.typecodes["AllInteger"], *np.typecodes["AllFloat"], "?", "U"}
_FUNCTIONS = (np.empty(0).__reduce__()[0], np.float32(0).__reduce__()[0])  # what they are stored with
_SAFE: list[Any] = [np.ndarray, np.dtype, TraceKeys, *_FUNCTIONS, *(type(np.dtype(code)) for code in _CODES)]
torch.serialization.add_safe_globals(_SAFE)


class CheckedPersistentDataset(PersistentDataset):
    """MONAI's PersistentDataset, except that files are written atomically, and rebuilt if damaged or out of date.

    MONAI copies files from a temporary folder, so a run killed meanwhile leaves a partial file that makes
    every later run fail; and PyTorch loads flipped bits as voxels. Here a damaged case is preprocessed again, and so is
    one whose source files have changed in size or modification time. Items are stored as the transforms leave them, a
    MetaTensor with its metadata, and loaded as plain data. Different transforms write different files. The arguments
    are MONAI's.
    """

    def __init__(self, data: Any, transform: Any, cache_dir: Any, hash_transform: Any = pickle_hashing) -> None:
        super().__init__(data, transform, None, hash_transform=hash_transform)
        self.cache_dir: Path = Path(cache_dir)  # the first file that is written creates it

    def file(self, item: Any) -> Path:
        """The file of a preprocessed case.

        Args:
            item: An element of ``data``.
        """
        key = self.hash_func({"item": item, "sources": _sources(item), "code": __version__})
        return self.cache_dir / f"{key.decode()}{self.transform_hash}.pt"

    def read(self, item: Any) -> Any:
        """The preprocessed case, up to the first random transform, if it is on disk and not damaged; otherwise None.

        Args:
            item: An element of ``data``.
        """
        try:
            return read_checkpoint(self.file(item))
        except FileNotFoundError:
            pass
        except DamagedFile as error:
            warnings.warn(f"{error}; preprocessing this case again", stacklevel=2)
        return None

    def preprocess(self, item: Any) -> Any:
        """Apply the transforms up to the first random one, without writing the result.

        Args:
            item: An element of ``data``.
        """
        return convert_to_contiguous(self._pre_transform(deepcopy(item)), memory_format=torch.contiguous_format)

    def _cachecheck(self, item_transformed: Any) -> Any:
        item = self.read(item_transformed)
        if item is None:
            item = self.preprocess(item_transformed)
            write_checkpoint(self.file(item_transformed), item)
        return item


def _sources(item: Any) -> list[tuple[str, int, int]]:
    """Path, size and modification time of every file that an item names."""
    sources = []
    for text in _texts(item):
        path = Path(text)
        if os.sep in text and path.is_file():
            stat = path.stat()
            sources.append((text, stat.st_size, stat.st_mtime_ns))
    return sources


def _texts(item: Any) -> Iterator[str]:
    if isinstance(item, str | os.PathLike):
        yield str(item)
    elif isinstance(item, dict):
        for value in item.values():
            yield from _texts(value)
    elif isinstance(item, list | tuple):
        for value in item:
            yield from _texts(value)
