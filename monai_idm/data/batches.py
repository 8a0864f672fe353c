"""Which cases a step of training sees, and what their random transforms draw: of the seed and the step alone.

Batches are cut from an endless stream: one permutation of the cases after another. So several processes that share a
batch see what one would see alone, and a run that goes on after an interruption what it would have seen without.
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
    """A case, by its number, and the seed of its random transforms."""

    case: int
    seed: int


class SeededBatches(Sampler[list[CaseDraw]]):
    """``batch_sampler`` of a DataLoader over a :class:`SeededDataset`; every batch is full.

    Of a batch, drawn for all processes of a distributed run at once, a process takes its part. A pass has as many
    batches as it takes to see every case, and the next goes on in the stream where it ended.

    Among a trainer's handlers, after the one that resumes, it starts with the batch of the trainer's next iteration.

    Args:
        num_cases: Of the dataset.
        batch_size: Of one process.
        seed: Of the stream.
    """

    def __init__(self, num_cases: int, batch_size: int, seed: int = 0) -> None:
        if num_cases < 1 or batch_size < 1:
            raise ValueError(f"num_cases={num_cases}, batch_size={batch_size}; a batch needs at least one case")
        self.num_cases = num_cases
        self.batch_size = batch_size
        self.seed = seed
        self.step = 0
        """Number of the next batch; set it to go on from there."""

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self._go_on)

    def __len__(self) -> int:
        return ceil(self.num_cases / (self.batch_size * idist.get_world_size()))

    def __iter__(self) -> Iterator[list[CaseDraw]]:
        for _ in range(len(self)):
            self.step += 1
            yield self.batch(self.step - 1)

    def batch(self, step: int) -> list[CaseDraw]:
        """This process's part of a batch, every n-th of n processes' draws."""
        processes = idist.get_world_size()
        size = self.batch_size * processes
        return [self._draw(place) for place in range(step * size + idist.get_rank(), (step + 1) * size, processes)]

    def _draw(self, place: int) -> CaseDraw:
        turn, within = divmod(place, self.num_cases)
        case = _permutation(self.num_cases, mixed_seed(self.seed, "order", turn))[within]
        return CaseDraw(case, mixed_seed(self.seed, "transforms", place))

    def _go_on(self, engine: Engine) -> None:
        self.step = engine.state.iteration


class SeededDataset(Dataset):
    """One of MONAI's datasets, asked for a :class:`CaseDraw`: its random transforms start from the draw's seed.

    Args:
        dataset: Dataset with a ``transform`` that is a ``Compose``, as CacheDataset and PersistentDataset have it. Of
            another one, nothing is seeded but torch, by TrainingStep.
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


@lru_cache(maxsize=2)  # a batch may end one permutation and begin the next
def _permutation(length: int, seed: int) -> list[int]:
    return torch.randperm(length, generator=torch.Generator().manual_seed(seed)).tolist()
