"""Statistics against Python's own, and the interval against theory."""

from __future__ import annotations

import math
import statistics

import torch

from monai_idm.metrics.statistics import describe


def test_mean_spread_and_number():
    values = [1.0, 4.0, 2.0, 8.0]
    found = describe(values)
    assert (found["mean"], found["n"]) == (statistics.mean(values), 4)
    assert math.isclose(found["sd"], statistics.stdev(values))


def test_few_or_infinite_values_have_no_interval():
    assert describe([3.0]) == {"mean": 3.0, "sd": None, "n": 1, "ci95": None}
    assert describe([3.0, math.inf])["ci95"] is None
    assert math.isnan(describe([])["mean"])


def test_the_interval_holds_the_true_mean_about_as_often_as_it_says():
    torch.manual_seed(0)
    held = 0
    for _ in range(100):
        low, high = describe(torch.randn(30).tolist())["ci95"]
        held += low < 0 < high
    assert 88 <= held <= 99


def test_of_many_cases_the_interval_is_that_of_the_central_limit():
    values = torch.rand(400).tolist()
    error = statistics.pstdev(values) / 20
    low, high = describe(values)["ci95"]
    assert math.isclose(low, statistics.mean(values) - 1.96 * error, abs_tol=0.1 * error)
    assert math.isclose(high, statistics.mean(values) + 1.96 * error, abs_tol=0.1 * error)


def test_the_interval_repeats_itself():
    assert describe([1.0, 2.0, 5.0]) == describe([1.0, 2.0, 5.0])
