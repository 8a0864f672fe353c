"""Caches preprocessed volumes on disk, across epochs and runs."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any, cast

from monai.data import PersistentDataset, pickle_hashing
from monai.utils import convert_to_tensor

from monai_idm.checkpoints import DamagedFile, read_checkpoint, write_checkpoint
from monai_idm.version import __version__

__all__ = ["CheckedPersistentDataset"]


class CheckedPersistentDataset(PersistentDataset):
    """MONAI's PersistentDataset, except that files are written atomically, and rebuilt if damaged or out of date.

    MONAI copies files from a temporary folder, so a run killed meanwhile leaves a partial file that makes
    every later run fail; and PyTorch loads flipped bits as voxels. Here a damaged case is preprocessed again, and so is
    one whose source files have changed in size or modification time. The arguments are MONAI's. Items are stored
    without metadata, so that they load without pickled objects. Different transforms write different files.
    """

    def __init__(self, data: Any, transform: Any, cache_dir: Any, hash_transform: Any = pickle_hashing) -> None:
        super().__init__(data, transform, cache_dir, hash_transform=hash_transform)

    def _cachecheck(self, item_transformed: Any) -> Any:
        key = self.hash_func({"item": item_transformed, "sources": _sources(item_transformed), "code": __version__})
        file = cast(Path, self.cache_dir) / f"{key.decode()}{self.transform_hash}.pt"
        try:
            return read_checkpoint(file)
        except FileNotFoundError:
            pass
        except DamagedFile as error:
            warnings.warn(f"{error}; preprocessing this case again", stacklevel=2)
        item = convert_to_tensor(self._pre_transform(deepcopy(item_transformed)), convert_numeric=False)
        write_checkpoint(file, item)
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
