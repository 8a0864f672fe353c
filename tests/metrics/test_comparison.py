"""A paired metric is one row of ``METRICS``: everything that adding a row changes."""

from __future__ import annotations

import pytest
import torch

from monai_idm.metrics import comparison
from monai_idm.metrics.comparison import METRICS, Comparison, PairedMetric
from tests.metrics.test_reconstruction import accumulated, make_case
from tests.metrics.test_synthesis import evaluated

ACCUMULATED = {"reconstruction": lambda: accumulated(3), "synthesis": evaluated}


def correlation(pair: Comparison, mask: torch.Tensor | None) -> torch.Tensor:
    inside = torch.ones_like(pair.reference[0]) > 0 if mask is None else mask[0] > 0
    pairs = zip(pair.pred[:, inside], pair.reference[:, inside], strict=True)
    return torch.stack([torch.corrcoef(torch.stack(both))[0, 1] for both in pairs])


@pytest.fixture
def added(monkeypatch):
    monkeypatch.setitem(METRICS, "r", PairedMetric("correlation", correlation, ".3f", True))


@pytest.mark.parametrize("task", ACCUMULATED)
def test_a_row_brings_a_metric_into_rows_summary_scalars_and_table(task, added):
    metrics = ACCUMULATED[task]()
    modality = metrics.modalities[0]
    best, *_ = image = metrics.summary()["image"][modality]["brain"]
    assert {(row["space"], row["r"] is None) for row in metrics.rows()} <= {("image", False), ("noise", True)}
    rows = [r for r in metrics.rows() if (r["modality"], r["region"], r["method"]) == (modality, "brain", best)]
    assert image[best]["r"]["mean"] == pytest.approx(sum(row["r"] for row in rows) / len(rows))
    scalars = metrics.scalars()
    for region in ("brain", "whole"):
        parts = [scalars[f"r_{name}_{region}"] for name in metrics.modalities]
        assert scalars[f"r_{region}"] == pytest.approx(sum(parts) / len(parts))
    table = metrics.table()
    line = next(line for line in table[table.index("correlation") :].splitlines() if line.startswith(modality))
    assert f"{image[best]['r']['mean']:.3f} ± {image[best]['r']['sd']:.3f}" in line
    assert "PSNR, SSIM, MAE and correlation of images at data range 1" in table
    assert max(map(len, table.splitlines())) <= 110


@pytest.mark.parametrize("larger", [True, False])
def test_a_row_says_which_batch_is_the_best(larger, monkeypatch):
    monkeypatch.setitem(METRICS, "r", PairedMetric("correlation", correlation, ".3f", larger))
    metrics = accumulated(4)
    values = [row["r"] for row in metrics.rows() if row["region"] == "brain" and row["method"] == "one_step"][::2]
    batches = [sum(values[:2]) / 2, sum(values[2:]) / 2]
    found = metrics.summary()["image"]["t1"]["brain"]["one_step"]["r"]["best_batch_of_2"]
    assert found == pytest.approx((max if larger else min)(batches))


def test_a_row_of_noise_and_one_region_is_printed_where_it_is_defined(monkeypatch):
    monkeypatch.setitem(METRICS, "r", PairedMetric("correlation", correlation, ".3f", True, spaces=("noise",)))
    monkeypatch.setitem(METRICS, "q", PairedMetric("quality", correlation, ".3f", True, region="brain"))
    metrics = accumulated(1)
    defined = {(key, row["space"], row["region"]) for row in metrics.rows() for key in "rq" if row[key] is not None}
    assert defined == {("r", "noise", "whole"), ("q", "image", "brain")}
    scalars = metrics.scalars()
    assert scalars["noise_r_t1"] == pytest.approx(1)  # predicted is 0.9 times the noise
    assert "q_brain" not in scalars
    noise = metrics.table().split("noise  region")[1]
    assert "correlation" in noise.splitlines()[0]
    assert f"\nquality, brain: t1 {scalars['q_t1_brain']:.3f}, t2 {scalars['q_t2_brain']:.3f}" in metrics.table()


def test_a_metric_is_none_for_volumes_with_too_short_a_side(monkeypatch):
    monkeypatch.setitem(METRICS, "r", PairedMetric("correlation", correlation, ".3f", True, smallest_side=10))
    metrics = accumulated(2)  # 9 voxels on the shortest axis
    assert {row["r"] for row in metrics.rows()} == {None}
    assert not [name for name in metrics.scalars() if name.startswith("r_")]
    assert "correlation" in metrics.table()
    assert not METRICS["ms_ssim"].is_defined("image", "whole", torch.empty(1, 64, 64, 63))
    assert METRICS["ms_ssim"].is_defined("image", "whole", torch.empty(1, 64, 64, 64))


def test_the_map_of_ssim_is_made_once_for_both_regions(monkeypatch):
    seen = []
    monkeypatch.setattr(comparison, "ssim_map", lambda *pair: seen.append(1) or torch.ones(2, 4, 6, 3))
    case = make_case(0)
    metrics = accumulated(0)
    metrics.update("a", case["pred"], case["reference"], case["mask"], one_step=case["one_step"])
    assert len(seen) == 2  # reconstruction and one step
