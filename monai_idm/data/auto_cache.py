"""Caches preprocessed volumes in memory if they fit there, otherwise on disk."""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Callable, Sequence
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any, ClassVar
from weakref import WeakSet

import ignite.distributed as idist
import torch
from monai.data import CacheDataset, Dataset
from tqdm import tqdm

from monai_idm.checkpoints import write_checkpoint
from monai_idm.data.cache import CheckedPersistentDataset
from monai_idm.meters import free_memory_bytes

__all__ = ["AutoCacheDataset"]

_logger = logging.getLogger(__name__)


class AutoCacheDataset(Dataset):
    """MONAI's CacheDataset if all cases take less than half of the free memory, otherwise CheckedPersistentDataset.

    All cases are preprocessed when the dataset is created, up to the first random transform. On disk, each is stored
    as soon as it is ready: an interrupted preparation continues where it stopped, and later runs find the files. What
    the dataset returns does not depend on where it is cached. One line of the log gives the choice and the reason.

    Training and validation must fit together: a dataset counts the cases of all such datasets that its process created
    before. With several processes per machine, each holds all cases in memory, or prepares its share of the files.
    If the system does not say how much memory is free (macOS, Windows), the disk is used.

    Args:
        data: Cases, one item each; all are assumed to take as much memory as the first.
        transform: Transforms; those from the first random one on are applied each time a case is used.
        cache_dir: Folder for cases on disk; its last part names the dataset in the log.
        num_workers: Number of threads that preprocess.
        progress: Whether to show a progress bar.
    Raises:
        OSError: If the disk is full, or the folder may not be written to.
    """

    _created: ClassVar[WeakSet[AutoCacheDataset]] = WeakSet()

    def __init__(
        self,
        data: Sequence[Any],
        transform: Callable[..., Any] | Sequence[Callable[..., Any]],
        cache_dir: str | os.PathLike[str],
        num_workers: int = 2,
        progress: bool = True,
    ) -> None:
        super().__init__(data, transform)
        on_disk = CheckedPersistentDataset(data, self.transform, cache_dir)
        files = [on_disk.file(item) for item in data]
        cases: list[Any] = [None] * len(files)
        first = 0
        if files and files[0].is_file():
            first = files[0].stat().st_size
        elif files:
            cases[0] = on_disk.preprocess(data[0])
            first = _stored_size(cases[0])
        self.num_bytes = first * len(files)
        """Bytes of all cases together."""
        self.cases: Dataset = on_disk
        """The dataset that holds the cases."""

        in_memory, reason = self._fits_memory()
        AutoCacheDataset._created.add(self)
        if in_memory:
            self.cases = CacheDataset(data, self.transform, runtime_cache=cases)
            place = "in memory"
            missing = [index for index, case in enumerate(cases) if case is None]
        else:
            if cases and cases[0] is not None:
                write_checkpoint(files[0], cases[0])
            absent = {file: index for index, file in enumerate(files) if not file.is_file()}  # a case may occur twice
            place = f"on disk, in {cache_dir}; {len(absent)} are not there yet"
            missing = [index for index in absent.values() if index % idist.get_world_size() == idist.get_rank()]
        if idist.get_rank() == 0:
            _logger.info("%s: %s: cached %s", Path(cache_dir).name, reason, place)

        def prepare(index: int) -> None:
            if in_memory:
                case = on_disk.read(data[index])
                cases[index] = on_disk.preprocess(data[index]) if case is None else case
            else:
                write_checkpoint(files[index], on_disk.preprocess(data[index]))

        with ThreadPool(num_workers) as pool:
            done = pool.imap_unordered(prepare, missing)
            for _ in tqdm(done, "Preprocessing", len(missing), disable=not (progress and missing)):
                pass

    def _transform(self, index: int) -> Any:
        return self.cases[index]

    def _fits_memory(self) -> tuple[bool, str]:
        """Whether the cases take less than half of the free memory, and the comparison in words."""
        others = list(AutoCacheDataset._created)
        before = sum(other.num_bytes for other in others)
        held = sum(other.num_bytes for other in others if isinstance(other.cases, CacheDataset))
        processes = idist.get_nproc_per_node()
        need = f"{len(self.data)} case{' takes' if len(self.data) == 1 else 's take'} {_gb(self.num_bytes)}"
        if before:
            need += f", {_gb(before + self.num_bytes)} with those of other datasets"
        if processes > 1:
            need += f", in each of {processes} processes"
        free = free_memory_bytes("cpu")
        if free is None:
            return False, f"{need}, and it is unknown how much memory is free"
        free += processes * held  # what was free before any case was cached
        fits = processes * (before + self.num_bytes) < free / 2
        return fits, f"{need}, {'less' if fits else 'not less'} than half of the {_gb(free)} of free memory"


def _stored_size(case: Any) -> int:
    buffer = io.BytesIO()
    torch.save(case, buffer)
    return buffer.tell()


def _gb(num_bytes: float) -> str:
    return f"{num_bytes / 1e9:.3g} GB"
