"""The studies of kills and of long trainings, at a tiny size."""

from __future__ import annotations

import torch

from idm_bundle.studies import (
    kills,
    soak,
)  # fmt: skip


def test_a_training_that_is_killed_ends_where_an_undisturbed_one_does():
    found = kills.killed(steps=12, side=8, kills=2, **{"demo#val_interval": 4})
    assert found["kills"] == 2
    assert found["half_written"] >= 1
    assert found["compared"] > 100
    assert found["different"] == 0


def test_the_comparison_sees_a_difference():
    one = dict(kills._leaves("", {"a": {"w": torch.ones(3)}, "b": [1, 2.0]}))
    other = dict(kills._leaves("", {"a": {"w": torch.ones(3) + 1e-6}, "b": [1, 3.0]}))
    assert [kills._equal(one[name], other[name]) for name in one] == [False, True, False]
    assert not kills._equal(torch.ones(1), None)


def test_a_long_training_is_watched(monkeypatch):
    monkeypatch.setattr(soak, "_EVERY", 4)
    found = soak.soaked(steps=20, side=8)
    assert abs(found["mb_per_10000_steps"]) < 1e5
    assert len(found["mb"]) == len(found["errors"]) == len(found["losses"]) == 5
    assert min(found["mb"]) > 100
    assert 0 < found["largest_error"] < 1e-4
    assert min(found["losses"]) > 0
