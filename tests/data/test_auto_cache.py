"""Cases are cached in memory or on disk by the memory that is free, and are the same in both."""

from __future__ import annotations

import os
import signal
from multiprocessing import get_context
from weakref import WeakSet

import ignite.distributed as idist
import numpy as np
import pytest
import torch
from monai.data import CacheDataset, MetaTensor
from monai.transforms import Compose, DeleteItemsd, EnsureTyped, Lambdad, RandFlipd
from torch.utils._pytree import tree_flatten

from monai_idm.data import AutoCacheDataset, CheckedPersistentDataset, LoadVolumesd, auto_cache
from tests.data.cases import chain, write_case

CASES = 4


@pytest.fixture(autouse=True)
def free(monkeypatch):
    """Sets the bytes of free memory."""
    monkeypatch.setattr(AutoCacheDataset, "_created", WeakSet())  # datasets of other tests may still be alive
    return lambda size: monkeypatch.setattr(auto_cache, "free_memory_bytes", lambda device: size)


@pytest.fixture
def items(tmp_path):
    return [write_case(tmp_path, f"case_{i}", seed=i) for i in range(CASES)]


class Count:
    """Writes a line to a file for every case; the process is killed at case ``last``, which is read from a file."""

    def __init__(self, folder):
        folder.mkdir(exist_ok=True)
        self.made, self.last = folder / "made.txt", folder / "last.txt"

    def __call__(self, image):
        if self.last.exists() and self.count() >= int(self.last.read_text()):
            os.kill(os.getpid(), signal.SIGKILL)
        with self.made.open("a") as stream:
            stream.write("made\n")
        return image

    def count(self):
        return len(self.made.read_text().splitlines()) if self.made.exists() else 0


def training(count):
    return Compose(
        [
            LoadVolumesd("image"),
            Lambdad("image", count),
            EnsureTyped("image", track_meta=False),
            DeleteItemsd("mask"),
            RandFlipd("image", prob=0.5, spatial_axis=0),
        ]
    )


def dataset(items, folder, count=None, **options):
    transform = training(count or Count(folder))
    return AutoCacheDataset(items, transform, folder / "cache" / "training", progress=False, **options)


def leaves(item):
    """Types and values of everything in an item, with the metadata and the record of each volume."""
    found = []
    for leaf in tree_flatten(item)[0]:
        meta = [leaves(leaf.meta), leaves(leaf.applied_operations)] if isinstance(leaf, MetaTensor) else []
        value = np.asarray(leaf).tobytes() if isinstance(leaf, np.ndarray | torch.Tensor) else str(leaf)
        found.append((type(leaf), value, *meta))
    return found


@pytest.mark.parametrize("times", ["first", "second"])
def test_a_case_is_the_same_from_memory_and_from_disk_with_its_metadata(times, items, free, tmp_path):
    before, after = chain(output_dir=str(tmp_path / "out"))

    def made(size):
        free(size)
        return AutoCacheDataset(items, before, tmp_path / "cache", progress=False)

    memory, disk = made(10**12), made(0)
    if times == "second":
        disk = made(0)
    assert [type(d.cases) for d in (memory, disk)] == [CacheDataset, CheckedPersistentDataset]
    for a, b in zip(memory, disk, strict=True):
        assert a.keys() == b.keys()
        identity = "id"  # of the transform, to which MONAI's PersistentDataset does not hold the records either
        for volume in (a["image"], b["image"], a["mask"], b["mask"]):
            volume.applied_operations = [{**step, identity: 0} for step in volume.applied_operations]
        assert leaves(a) == leaves(b)
    for case in disk:
        restored = after(case | {"pred": case["image"].as_tensor().clone()})
        assert restored["pred"].shape[1:] == torch.Size([27, 33, 22])


def test_memory_is_used_below_half_of_what_is_free(items, free, tmp_path, caplog):
    caplog.set_level("INFO")
    free(None)
    unknown = dataset(items, tmp_path)
    need = sum(file.stat().st_size for file in (tmp_path / "cache" / "training").iterdir())
    assert unknown.num_bytes == need
    AutoCacheDataset._created.clear()
    free(2 * need + 1)
    memory = dataset(items, tmp_path / "memory")
    assert [type(d.cases) for d in (unknown, memory)] == [CheckedPersistentDataset, CacheDataset]
    assert memory.num_bytes == need  # the size is the same, whether it comes from a file or from the first case
    assert not (tmp_path / "memory" / "cache").exists()
    first, second = caplog.messages
    assert first.startswith("training: 4 cases take 0.00")
    assert first.endswith(
        f"it is unknown how much memory is free: cached on disk, in {tmp_path}/cache/training; 3 are not there yet"
    )
    assert second.endswith("of free memory: cached in memory")
    AutoCacheDataset._created.clear()
    free(2 * need)
    assert type(dataset(items, tmp_path).cases) is CheckedPersistentDataset
    assert "not less than half of the" in caplog.messages[-1]
    assert "0 are not there yet" in caplog.messages[-1]


@pytest.mark.parametrize(
    ("free_cases", "expected"),
    [(2 * CASES, "disk disk"), (4 * CASES, "memory disk"), (4 * CASES + 1, "memory memory")],
)
def test_training_and_validation_share_the_half(free_cases, expected, items, free, tmp_path):
    free(None)
    need = dataset(items, tmp_path / "probe").num_bytes
    AutoCacheDataset._created.clear()
    free(free_cases * need // CASES)
    first = dataset(items, tmp_path / "1")
    places = ["memory" if type(first.cases) is CacheDataset else "disk"]
    free(free_cases * need // CASES - (need if places == ["memory"] else 0))  # which the first one holds
    second = dataset(items, tmp_path / "2")
    places.append("memory" if type(second.cases) is CacheDataset else "disk")
    assert " ".join(places) == expected


def test_several_processes_each_need_memory_and_share_the_work_on_disk(items, free, monkeypatch, tmp_path):
    free(10**12)
    need = dataset(items, tmp_path / "probe").num_bytes
    AutoCacheDataset._created.clear()
    monkeypatch.setattr(idist, "get_nproc_per_node", lambda: 2)
    monkeypatch.setattr(idist, "get_world_size", lambda: 2)
    free(4 * need)
    count = Count(tmp_path)
    ranks = []
    for rank in (0, 1):
        monkeypatch.setattr(idist, "get_rank", lambda rank=rank: rank)
        ranks.append(dataset(items, tmp_path))
        assert type(ranks[-1].cases) is CheckedPersistentDataset
        assert count.count() == (2, 4)[rank]
    for one, other in zip(*ranks, strict=True):
        assert one["subject"] == other["subject"]
    assert count.count() == 4


@pytest.mark.parametrize("place", ["memory", "disk"])
def test_every_case_is_preprocessed_once(place, items, free, tmp_path):
    free(10**12 if place == "memory" else 0)
    count = Count(tmp_path)
    cases = dataset([*items, items[2]], tmp_path)  # a case that is listed twice is stored once
    made = CASES + (place == "memory")
    assert count.count() == made
    for _ in range(2):
        assert [case["subject"] for case in cases] == [item["subject"] for item in [*items, items[2]]]
    dataset([*items, items[2]], tmp_path)
    assert count.count() == (2 * made if place == "memory" else made)


@pytest.mark.skipif("fork" not in torch.multiprocessing.get_all_start_methods(), reason="the process is forked")
@pytest.mark.parametrize("place", ["memory", "disk"])
def test_a_preparation_that_was_killed_goes_on_with_the_cases_on_disk(place, items, free, tmp_path):
    count = Count(tmp_path)
    count.last.write_text("3")
    free(0)
    child = get_context("fork").Process(target=dataset, args=(items, tmp_path, count), kwargs={"num_workers": 1})
    child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL
    assert count.count() == 3
    count.last.unlink()
    free(10**12 if place == "memory" else 0)
    cases = dataset(items, tmp_path, count)
    assert count.count() == CASES
    assert [case["subject"] for case in cases] == [item["subject"] for item in items]


def test_no_cases_need_nothing(free, tmp_path):
    free(0)
    assert len(dataset([], tmp_path)) == 0


def test_a_case_that_cannot_be_read_ends_the_preparation(items, tmp_path):
    os.truncate(items[2]["image"][0], 100)
    with pytest.raises(RuntimeError) as caught:
        dataset(items, tmp_path)
    assert "cannot read" in str(caught.value.__cause__)
