"""Preprocessed volumes on the disk, between runs and epochs."""

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
    """MONAI's PersistentDataset, whose files are whole or absent, and made anew when they are not what was written.

    MONAI copies them from the folder for temporary files: a training that is killed meanwhile leaves one that ends all
    that follow, and PyTorch takes flipped bits for voxels. A volume is made anew, too, when its source files are others
    than they were, by size and time. Arguments are MONAI's; items are kept without metadata, so
    that they load without pickled objects. Other transforms make other files.
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
    """Path, size and time of change of every file that an item names."""
    found = []
    for text in _texts(item):
        path = Path(text)
        if os.sep in text and path.is_file():
            stat = path.stat()
            found.append((text, stat.st_size, stat.st_mtime_ns))
    return found


def _texts(item: Any) -> Iterator[str]:
    if isinstance(item, str | os.PathLike):
        yield str(item)
    elif isinstance(item, dict):
        for value in item.values():
            yield from _texts(value)
    elif isinstance(item, list | tuple):
        for value in item:
            yield from _texts(value)
