"""Decides which cases a training step sees and what their random transforms draw, from the seed and the step alone.

Batches are cut from an endless stream of permutations of the cases. Several processes that share a batch therefore see
what one process would see alone, and a resumed run sees what an uninterrupted run would have seen.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from math import ceil
from typing import Any, NamedTuple

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from monai.transforms import Randomizable
from torch.utils.data import Dataset, Sampler

from monai_idm.noise import mixed_seed

__all__ = ["CaseDraw", "SeededBatches", "SeededDataset"]


class CaseDraw(NamedTuple):
    """A case of a dataset, and the random numbers that its transforms draw.

    Args:
        case: Index of the case.
        seed: Seed of its random transforms.
    """

    case: int
    seed: int


class SeededBatches(Sampler[list[CaseDraw]]):
    """``batch_sampler`` for a DataLoader over a :class:`SeededDataset`; every batch is full.

    In a distributed run a batch is drawn for all processes together, and each process gets its share. One pass has as
    many batches as are needed to see every case; the next pass continues the stream where it ended.

    Attached to a trainer after the handler that resumes it, the sampler starts at the trainer's next iteration.

    Args:
        num_cases: Number of cases in the dataset.
        batch_size: Number of cases per batch and process.
        seed: Seed of the stream.
    Raises:
        ValueError: If there are no cases, or the batch size is not positive.
    """

    def __init__(self, num_cases: int, batch_size: int, seed: int = 0) -> None:
        if num_cases < 1 or batch_size < 1:
            raise ValueError(f"num_cases={num_cases}, batch_size={batch_size}; a batch needs at least one case")
        self.num_cases = num_cases
        self.batch_size = batch_size
        self.seed = seed
        self.step = 0
        """Number of the next batch; set it to continue from there."""

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self._resume)

    def __len__(self) -> int:
        return ceil(self.num_cases / (self.batch_size * idist.get_world_size()))

    def __iter__(self) -> Iterator[list[CaseDraw]]:
        for _ in range(len(self)):
            self.step += 1
            yield self.batch(self.step - 1)

    def batch(self, step: int) -> list[CaseDraw]:
        """This process's share of a batch: with n processes, every n-th draw."""
        processes = idist.get_world_size()
        size = self.batch_size * processes
        positions = range(step * size + idist.get_rank(), (step + 1) * size, processes)
        return [self._draw(position) for position in positions]

    def _draw(self, position: int) -> CaseDraw:
        permutation, index = divmod(position, self.num_cases)
        case = _permutation(self.num_cases, mixed_seed(self.seed, "order", permutation))[index]
        return CaseDraw(case, mixed_seed(self.seed, "transforms", position))

    def _resume(self, engine: Engine) -> None:
        self.step = engine.state.iteration


class SeededDataset(Dataset):
    """A MONAI dataset indexed by :class:`CaseDraw`: the random transforms start from the draw's seed.

    Args:
        dataset: Dataset whose ``transform`` is a ``Compose``, such as CacheDataset or PersistentDataset. The transforms
            of any other dataset are not seeded, except for torch's generator, by TrainingStep.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, draw: CaseDraw) -> Any:
        transform = getattr(self.dataset, "transform", None)
        if isinstance(transform, Randomizable):
            transform.set_random_state(seed=draw.seed)
        return self.dataset[draw.case]


@lru_cache(maxsize=2)  # a batch may span two permutations
def _permutation(length: int, seed: int) -> list[int]:
    return torch.randperm(length, generator=torch.Generator().manual_seed(seed)).tolist()
