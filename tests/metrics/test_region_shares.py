"""Shares of regions of known label maps, and their distances against plain computations."""

from __future__ import annotations

import json

import pytest
import torch

from monai_idm.metrics import compare_region_shares, region_shares
from monai_idm.metrics.region_shares import _wasserstein

REGIONS = {"ventricles": [1, 2], "grey matter": [3]}


def label(ventricles, grey, rest):
    """A label map with so many voxels of each, and air around them."""
    return torch.tensor(
        [1] * (ventricles // 2) + [2] * (ventricles - ventricles // 2) + [3] * grey + [4] * rest + [0] * 9
    )


def maps(seed, mean=30, count=12):
    sizes = torch.randint(mean - 10, mean + 11, (count,), generator=torch.Generator().manual_seed(seed))
    return [label(int(n), 50, 100 - int(n)) for n in sizes]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float32])
def test_a_share_is_of_all_labels_but_air(dtype):
    found = region_shares(label(10, 25, 15).view(1, 1, 59, 1).to(dtype), REGIONS)
    assert found == {"ventricles": 0.2, "grey matter": 0.5}


def test_the_distance_is_that_of_sorted_values_and_of_a_fine_grid():
    a, b = (torch.rand(3, n, generator=torch.Generator().manual_seed(n), dtype=torch.float64) for n in (8, 8))
    torch.testing.assert_close(_wasserstein(a, b), (a.sort(1).values - b.sort(1).values).abs().mean(1))
    b = b[:, :5].round(decimals=1)  # other size, and ties
    places = torch.linspace(0, 1, 100_001, dtype=torch.float64)
    gap = [(x[:, :, None] <= places).double().mean(1) for x in (a, b)]
    torch.testing.assert_close(_wasserstein(a, b), (gap[0] - gap[1]).abs().mean(1), rtol=1e-3, atol=1e-4)


def test_larger_ventricles_by_one_standard_deviation_are_a_distance_of_one():
    real = maps(0)
    sd = compare_region_shares(real, real, REGIONS)["ventricles"]["real"]["sd"]
    larger = [label(n, 50, 100 - n) for n in [int((m == 1).sum() + (m == 2).sum()) + round(sd * 150) for m in real]]
    found = compare_region_shares(larger, real, REGIONS)
    assert found["ventricles"]["distance"] == pytest.approx(round(sd * 150) / 150 / sd)
    low, high = found["ventricles"]["distance_ci95"]
    assert low < found["ventricles"]["distance"] < high
    assert found["ventricles"]["generated"]["mean"] > found["ventricles"]["real"]["mean"]
    assert found["grey matter"]["distance"] is None  # the same share in all: no standard deviation to measure by
    json.dumps(found, allow_nan=False)


def test_the_distance_of_one_distribution_is_within_chance_and_of_another_is_not():
    assert compare_region_shares(maps(0), [label(n, 50, 0) for n in (1, 2)], REGIONS)["ventricles"]["distance"] > 5
    same = [compare_region_shares(maps(seed), maps(seed + 20), REGIONS)["ventricles"] for seed in range(8)]
    assert sum(found["distance"] > found["distance_by_chance"] for found in same) <= 1
    other = compare_region_shares(maps(0, mean=45), maps(1), REGIONS)["ventricles"]
    assert other["distance"] > 1.5 * other["distance_by_chance"]
    assert other == compare_region_shares(iter(maps(0, mean=45)), iter(maps(1)), REGIONS)["ventricles"]


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(ValueError, match="a label map without a brain"):
        region_shares(torch.zeros(4, 4, 4), REGIONS)
    with pytest.raises(ValueError, match="no generated label map to compare"):
        compare_region_shares([], maps(0), REGIONS)
    with pytest.raises(ValueError, match=r"no real label map has a label of the region 'cerebellum', \[7\]"):
        compare_region_shares(maps(0), maps(1), {"cerebellum": [7]})
    assert compare_region_shares(maps(0), maps(1)[:1], REGIONS)["ventricles"]["distance"] is None
