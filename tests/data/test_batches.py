"""Batches are cut from an endless stream, and random transforms depend on their place in it."""

from __future__ import annotations

from collections import Counter
from itertools import chain, islice

import ignite.distributed as idist
import pytest
import torch
from ignite.engine import Engine, Events
from monai.data import CacheDataset, DataLoader
from monai.transforms import Compose, RandFlipd, RandGaussianNoised

from monai_idm.data import SeededBatches, SeededDataset


def indices(batches) -> list[int]:
    return [draw.case for batch in batches for draw in batch]


def test_every_case_comes_once_before_any_comes_again():
    batches = SeededBatches(num_cases=5, batch_size=2, seed=3)
    drawn = indices(chain.from_iterable([batches, batches, batches, batches, batches]))
    assert len(drawn) == 5 * 3 * 2
    turns = [drawn[i : i + 5] for i in range(0, len(drawn), 5)]
    assert all(sorted(turn) == list(range(5)) for turn in turns)
    assert len({tuple(turn) for turn in turns}) > 1
    assert len({draw.seed for step in range(15) for draw in batches.batch(step)}) == 30
    assert indices([batches.batch(0)]) != indices([SeededBatches(5, 2, seed=4).batch(0)])


def test_a_batch_is_full_however_few_cases_there_are():
    assert [len(batch) for batch in SeededBatches(num_cases=3, batch_size=4)] == [4]
    assert Counter(indices(SeededBatches(3, 6))) == {0: 2, 1: 2, 2: 2}


def test_a_stream_resumes_from_any_step():
    whole = SeededBatches(7, 2, seed=1)
    expected = list(chain(whole, whole))
    later = SeededBatches(7, 2, seed=1)
    later.step = 3
    assert list(chain(later, later))[:5] == expected[3:]


@pytest.mark.parametrize("start", [0, 5])
def test_attached_to_a_trainer_it_resumes_where_the_trainer_does(start):
    batches, seen = SeededBatches(7, 2, seed=1), []
    trainer = Engine(lambda _, batch: seen.append(batch))
    state = {"iteration": start, "epoch_length": 4, "max_epochs": 2}
    trainer.add_event_handler(Events.STARTED, lambda trainer: trainer.load_state_dict(state))  # as a checkpoint does
    batches.attach(trainer)
    trainer.run(batches, max_epochs=2)
    assert seen == [batches.batch(step) for step in range(start, 8)]


def test_processes_share_the_batch_of_one(monkeypatch):
    alone = SeededBatches(7, 4, seed=1).batch(2)
    monkeypatch.setattr(idist, "get_world_size", lambda: 2)
    parts = []
    for rank in (0, 1):
        monkeypatch.setattr(idist, "get_rank", lambda rank=rank: rank)
        parts.append(SeededBatches(7, 2, seed=1).batch(2))
    assert [draw for pair in zip(*parts, strict=True) for draw in pair] == alone
    assert len(SeededBatches(9, 2)) == 3


@pytest.mark.parametrize("num_workers", [0, 1])
def test_random_transforms_depend_on_the_draw_alone(num_workers):
    transform = Compose([RandFlipd("image", prob=0.5, spatial_axis=0), RandGaussianNoised("image", prob=1.0)])
    cases = [{"image": torch.arange(4.0).reshape(1, 4) + 10 * i} for i in range(3)]
    batches = SeededBatches(3, 2, seed=5)

    def load(steps, workers=0):
        dataset = SeededDataset(CacheDataset(cases, transform, progress=False))
        loader = DataLoader(dataset, batch_sampler=batches, num_workers=workers)
        batches.step = steps.start
        return torch.stack([batch["image"] for batch in islice(chain(loader, loader), len(steps))])

    expected = load(range(4))
    assert torch.equal(load(range(4), num_workers), expected)
    assert torch.equal(load(range(2, 4), num_workers), expected[2:])
    assert len({tuple((image % 10).round(decimals=3).flatten().tolist()) for image in expected.flatten(0, 1)}) == 8


def test_no_cases_no_batches():
    with pytest.raises(ValueError, match="num_cases=0"):
        SeededBatches(0, 2)
    with pytest.raises(ValueError, match="batch_size=0"):
        SeededBatches(2, 0)
