"""Preprocessed volumes on the disk, between runs and epochs."""

from __future__ import annotations

import warnings
from copy import deepcopy
from pathlib import Path
from typing import Any, cast

from monai.data import PersistentDataset
from monai.utils import convert_to_tensor

from monai_idm.checkpoints import DamagedFile, read_checkpoint, write_checkpoint

__all__ = ["CheckedPersistentDataset"]


class CheckedPersistentDataset(PersistentDataset):
    """MONAI's PersistentDataset, whose files are whole or absent, and made anew when they are not what was written.

    MONAI copies them from the folder for temporary files: a training that is killed meanwhile leaves one that ends all
    that follow, and PyTorch takes flipped bits for voxels. Arguments are MONAI's, with a ``cache_dir``; items are kept
    without metadata, so that they load without pickled objects.
    """

    def _cachecheck(self, item_transformed: Any) -> Any:
        file = cast(Path, self.cache_dir) / f"{self.hash_func(item_transformed).decode()}{self.transform_hash}.pt"
        try:
            return read_checkpoint(file)
        except FileNotFoundError:
            pass
        except DamagedFile as error:
            warnings.warn(f"{error}; preprocessing this case again", stacklevel=2)
        item = convert_to_tensor(self._pre_transform(deepcopy(item_transformed)), convert_numeric=False)
        write_checkpoint(file, item)
        return item
