"""A run gives the same results, bit for bit, whether volumes are cached in memory or on disk."""

from __future__ import annotations

import shutil

import pytest
import torch
from monai.data import CacheDataset
from torch.utils._pytree import tree_flatten

from idm_bundle.studies.configs import SMALLEST
from monai_idm.data import CheckedPersistentDataset, auto_cache
from tests.bundle.workspace import train

RUN = {**SMALLEST, "demo#spatial_size": [8, 8, 8], "demo#max_epochs": 3, "demo#epoch_length": 2}
LAST = "checkpoint_epoch=3.pt"


@pytest.fixture
def run(monkeypatch):
    """Trains with all volumes in memory, or on disk."""

    def start(place, *args, **changes):
        monkeypatch.setattr(auto_cache, "free_memory_bytes", lambda device: 0 if place == "disk" else 10**12)
        kind = {"disk": CheckedPersistentDataset, "memory": CacheDataset}[place]
        done = train(*args, **{**RUN, **changes})
        for part in ("train", "validate"):
            assert type(done.parser.get_parsed_content(f"{part}#dataset").cases) is kind

    return start


def results(folder):
    """Everything in the last checkpoint, and the table of the validation."""
    leaves, structure = tree_flatten(torch.load(folder / "models" / LAST, weights_only=True))
    assert sum(isinstance(leaf, torch.Tensor) for leaf in leaves) > 100
    values = [leaf.numpy().tobytes() if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]
    return values, structure, (folder / "output" / "validation.csv").read_text()


@pytest.mark.parametrize(
    ("task", "changes"),
    [
        ([], {}),
        ([], {"num_workers": 1}),
        (["segmentation"], {}),
        (["synthesis"], {"modalities": ["t1", "t1ce", "t2"], "known": None}),
    ],
    ids=["generation", "generation, a worker", "segmentation", "synthesis"],
)
def test_a_training_does_not_depend_on_where_volumes_are_cached(task, changes, run, tmp_path):
    for place in ("memory", "disk"):
        run(place, tmp_path / place, ["train", *task], **changes)
    assert results(tmp_path / "disk") == results(tmp_path / "memory")


@pytest.mark.parametrize("places", [("memory", "disk"), ("disk", "memory"), ("disk", "disk")], ids=" then ".join)
def test_a_run_resumes_with_volumes_cached_elsewhere(places, run, tmp_path):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    run(places[0], whole)
    shutil.copytree(whole, stopped)
    (stopped / "models" / LAST).unlink()
    for table in (whole / "output").glob("*.csv"):
        (stopped / "output" / table.name).unlink()
    run(places[1], stopped, resume=True)
    assert results(stopped)[:2] == results(whole)[:2]
