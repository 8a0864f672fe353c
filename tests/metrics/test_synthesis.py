"""Metrics of synthesised contrasts against single metrics, and the baselines against tables made by hand."""

from __future__ import annotations

import json

import pytest
import torch

from monai_idm.metrics import SynthesisMetrics, TrainingBaselines, mae, psnr, ssim3d, training_baselines

SIZE = (10, 9, 8)
NAMES = ("t1", "t1ce", "t2")
MASK = torch.zeros(1, *SIZE)
MASK[:, 2:8, 2:7, 1:7] = 1


def make_case(seed):
    """T2 follows T1 by a step, up to noise; T1ce is 1 - T1."""
    generator = torch.Generator().manual_seed(seed)
    t1 = torch.rand(SIZE, generator=generator)
    t2 = torch.where(t1 > 0.5, 0.2, 0.7) + 0.01 * torch.randn(SIZE, generator=generator)
    return torch.stack([t1, 1 - t1, t2.clamp(0, 1)]) * MASK


def training(count=6):
    return [{"target": 2 * make_case(seed) - 1, "mask": MASK} for seed in range(count)]


def test_the_lookup_is_the_mean_of_what_the_same_intensity_had():
    baselines = TrainingBaselines(training(), NAMES, ["t1"])
    case = make_case(50)
    found = baselines.lookup(case[:1], MASK)
    assert found.shape == (2, *SIZE)
    inside = MASK[0] > 0
    edges = (case[0] * 64).long()
    values = torch.cat([item["target"][:, inside] for item in training()], 1) / 2 + 0.5
    for number in (3, 31, 60):
        expected = values[1:, (values[0] * 64).long() == number].mean(1)
        here = inside & (edges == number)
        torch.testing.assert_close(found[:, here], expected[:, None].expand(-1, int(here.sum())), atol=1e-5, rtol=0)
    assert not found[:, ~inside].any()
    assert psnr(found, case[1:], MASK)[1] > 25


def test_several_known_contrasts_tell_more_than_one():
    generator = torch.Generator().manual_seed(0)
    a, b = torch.rand(2, *SIZE, generator=generator)
    volume = torch.stack([a, b, ((a > 0.5) ^ (b > 0.5)).float()])
    items = [{"target": 2 * volume - 1, "mask": torch.ones(1, *SIZE)}]
    both = TrainingBaselines(items, NAMES, ["t1", "t1ce"]).lookup(volume[:2], items[0]["mask"])
    one = TrainingBaselines(items, NAMES, ["t1"]).lookup(volume[:1], items[0]["mask"])[1:]
    assert mae(both, volume[2:]) < 0.05 < 0.3 < mae(one, volume[2:])


def test_an_intensity_never_seen_takes_what_is_nearest_to_it():
    dark = [{"target": torch.full((3, *SIZE), -0.8), "mask": MASK}]
    found = TrainingBaselines(dark, NAMES, ["t1", "t2"]).lookup(torch.full((2, *SIZE), 0.9), MASK)
    torch.testing.assert_close(found[0][MASK[0] > 0], torch.full((int(MASK.sum()),), 0.1))
    with pytest.raises(ValueError, match="no training case"):
        TrainingBaselines([], NAMES, ["t1"]).mean_image()


def test_the_mean_image_is_the_mean_of_as_many_cases_as_allowed(monkeypatch):
    monkeypatch.setattr(training_baselines, "_CASES", 2)
    found = TrainingBaselines(training(), NAMES, ["t2"]).mean_image()
    torch.testing.assert_close(found, (make_case(0) + make_case(1))[:2] / 2)


def evaluated(cases=3, draws=2, baselines=True):
    learned = TrainingBaselines(training(), NAMES, ["t1"]) if baselines else None
    metrics = SynthesisMetrics(NAMES, ["t1"], learned)
    for seed in range(20, 20 + cases):
        case = make_case(seed)
        noise = torch.randn(draws, *case.shape, generator=torch.Generator().manual_seed(seed))
        metrics.update(f"case{seed}", (case + 0.1 * noise).clamp(0, 1), case, MASK)
    return metrics


def test_rows_hold_what_the_single_metrics_say_of_unknown_contrasts():
    metrics = evaluated(1)
    rows = metrics.rows()
    assert {row["modality"] for row in rows} == {"t1ce", "t2"}
    assert [row["method"] for row in rows if (row["modality"], row["region"]) == ("t2", "brain")] == [
        "draw",
        "draw",
        "ensemble",
        "lookup",
        "mean_image",
    ]
    case = make_case(20)
    drawn = (case + 0.1 * torch.randn(2, *case.shape, generator=torch.Generator().manual_seed(20))).clamp(0, 1)
    ensemble = next(
        row for row in rows if (row["method"], row["modality"], row["region"]) == ("ensemble", "t2", "brain")
    )
    for name, metric in (("psnr", psnr), ("ssim", ssim3d), ("mae", mae)):
        assert ensemble[name] == pytest.approx(float(metric(drawn.mean(0)[2:], case[2:], MASK)), rel=1e-5)


def test_draws_of_a_case_count_as_their_mean():
    metrics = evaluated()
    rows = [r for r in metrics.rows() if (r["method"], r["modality"], r["region"]) == ("draw", "t2", "brain")]
    found = metrics.summary()["image"]["t2"]["brain"]["draw"]["psnr"]
    assert len(rows) == 6
    assert found["n"] == 3
    assert found["mean"] == pytest.approx(sum(row["psnr"] for row in rows) / 6)


def test_scalars_are_of_the_ensemble_and_of_each_method():
    metrics = evaluated()
    scalars, image = metrics.scalars(), metrics.summary()["image"]
    assert scalars["psnr_t2_brain"] == image["t2"]["brain"]["ensemble"]["psnr"]["mean"]
    assert scalars["draw_ssim_t1ce_whole"] == image["t1ce"]["whole"]["draw"]["ssim"]["mean"]
    assert scalars["psnr_brain"] == pytest.approx((scalars["psnr_t1ce_brain"] + scalars["psnr_t2_brain"]) / 2)
    gain = scalars["psnr_brain"] - scalars["lookup_psnr_brain"]
    assert scalars["psnr_brain_gain_over_lookup"] == pytest.approx(gain)
    alone = evaluated(draws=1, baselines=False).scalars()
    assert alone["psnr_brain"] == alone["draw_psnr_brain"]
    assert "psnr_brain_gain_over_lookup" not in alone
    assert SynthesisMetrics(NAMES, ["t1"]).scalars() == {}


def test_table_and_summary_can_be_read():
    metrics = evaluated()
    json.dumps([metrics.summary(), metrics.rows()], allow_nan=False)
    table = metrics.table()
    assert "Synthesis, 3 cases" in table
    assert "lookup: mean intensity in the training cases" in table
    assert max(map(len, table.splitlines())) <= 110


def test_shapes_must_fit():
    with pytest.raises(ValueError, match=r"\(N, M, D, H, W\) and \(M, D, H, W\) with the M = 3 modalities"):
        SynthesisMetrics(NAMES, ["t1"]).update("a", torch.zeros(1, 2, *SIZE), torch.zeros(3, *SIZE), MASK)
    with pytest.raises(ValueError, match="name each channel once"):
        SynthesisMetrics(NAMES, NAMES)
