"""Sets of volumes with known faults, compared with sets without."""

from __future__ import annotations

import json

import pytest
import torch

from monai_idm.data import generate_phantom
from monai_idm.metrics import GenerationMetrics
from monai_idm.metrics.volume_features import FEATURES, features

SIZE = (24, 24, 16)


def phantom(seed):
    t1 = torch.from_numpy(generate_phantom(seed, SIZE, ["t1"]).images["t1"]).float()
    return (t1 / t1[t1 != 0].quantile(0.99)).clamp(0, 1)[None]


VOLUMES = [phantom(seed) for seed in range(24)]


def items(volumes):
    return [{"subject": f"case_{i}", "image": 2 * v - 1} for i, v in enumerate(volumes)]


def evaluated(samples, training=VOLUMES[:8]):
    metrics = GenerationMetrics(["t1"], items(VOLUMES[8:16]), items(training))
    for number, sample in enumerate(samples):
        metrics.update(f"sample_{number}", sample)
    return metrics


@pytest.fixture(scope="module")
def good():
    return evaluated(VOLUMES[16:]).scalars()


def noisy(v):
    return (v + 0.1 * torch.randn(v.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)


@pytest.mark.parametrize(
    ("fault", "worse"),
    [
        (lambda v: v**2, ["mmd_intensity", "histogram_distance"]),
        (noisy, ["mmd_texture"]),
        (lambda v: torch.nn.functional.avg_pool3d(v, 3, 1, 1), ["mmd_texture"]),
        (lambda v: v.roll(6, 1), ["mmd_layout"]),
    ],
)
def test_a_fault_shows_in_the_figure_that_is_for_it(good, fault, worse):
    bad = evaluated([fault(v) for v in VOLUMES[16:]]).scalars()
    for figure in worse:
        assert bad[figure] > 3 * max(abs(good[figure]), 1e-2), figure
    assert {name: bad[name] for name in bad if name.startswith("real_")} == {
        name: good[name] for name in good if name.startswith("real_")
    }


def test_good_samples_are_like_real_ones(good):
    for name in FEATURES:
        assert abs(good[f"mmd_{name}"]) < 0.5
    assert good["diversity_ms_ssim"] == pytest.approx(good["real_diversity_ms_ssim"], abs=0.03)
    assert good["nearest_rmse"] == pytest.approx(good["real_nearest_rmse"], rel=0.15)


def test_samples_that_are_all_alike_show_in_their_pairs(good):
    alike = evaluated([noisy(VOLUMES[16] * (1 - 0.01 * i)) for i in range(8)]).scalars()
    assert 1 - alike["diversity_ms_ssim"] < 0.02 * (1 - good["real_diversity_ms_ssim"])


def test_repeated_training_cases_are_found_by_name_also_mirrored():
    metrics = evaluated([VOLUMES[2].flip(1), VOLUMES[5]])
    generated = [row for row in metrics.rows() if row["method"] == "generated"]
    assert [row["nearest_training_case"] for row in generated] == ["case_2", "case_5"]
    assert max(row["nearest_rmse"] for row in generated) < 1e-6 < 0.05 < metrics.scalars()["real_nearest_rmse"]


def test_the_spectrum_finds_a_wave_in_its_band():
    wave = 0.5 + 0.4 * torch.cos(2 * torch.pi * 6 / 24 * torch.arange(24))
    bands = features(wave.view(1, 24, 1, 1).expand(1, *SIZE))["texture"]
    assert bands.argmax() == 4  # 6 cycles of 24 voxels: half of the highest frequency


def test_figures_that_need_more_samples_are_none():
    metrics = evaluated(VOLUMES[16:17])
    figures = metrics.summary()["methods"]["generated"]
    assert figures["mmd_texture"] is None
    assert figures["diversity_ms_ssim"] is None
    assert "generated  -" in metrics.table()
    json.dumps([metrics.summary(), metrics.rows()], allow_nan=False)
    empty = evaluated([])
    assert (empty.rows(), empty.scalars()) == ([], {})
    assert "no sample was drawn" in empty.table()


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(ValueError, match=r"sample: a volume of shape \(2, 4, 4, 4\)"):
        evaluated([]).update("sample", torch.zeros(2, 4, 4, 4))
    with pytest.raises(ValueError, match="no training case to compare"):
        evaluated(VOLUMES[:2], training=[]).rows()


def test_without_cases_of_the_training_samples_are_compared_all_the_same(good):
    metrics = GenerationMetrics(["t1"], items(VOLUMES[8:16]), None)
    for number, sample in enumerate(VOLUMES[16:]):
        metrics.update(f"sample_{number}", sample)
    of_training = ("nearest", "share_too_near", "real_mmd", "real_histogram")
    expected = {name: value for name, value in good.items() if not any(part in name for part in of_training)}
    assert metrics.scalars() == pytest.approx(expected)
    assert [row["subject"] for row in metrics.rows()] == [f"sample_{i}" for i in range(8)]
    assert "generated" in metrics.table()


def test_rarely_is_a_good_sample_too_near_and_a_copy_always():
    copies = evaluated([*VOLUMES[:2], VOLUMES[20], VOLUMES[21]])
    figures = copies.summary()["methods"]
    assert figures["generated"]["share_too_near"] == 0.5
    assert figures["real"]["share_too_near"] == 1 / 8  # of 8 real cases only the nearest is nearer than 5 % of them
    distances = sorted(row["nearest_rmse"] for row in copies.rows() if row["method"] == "real")
    assert figures["real"]["nearest_rmse_median"] == pytest.approx((distances[3] + distances[4]) / 2)


def test_every_figure_of_the_whole_set_ends_its_course_over_the_number_of_samples(good):
    summary = evaluated(VOLUMES[16:]).summary()
    course = summary["by_number"]["generated"]
    assert list(course) == ["2", "4", "8"]
    assert {name: found["mean"] for name, found in course["8"].items()} == pytest.approx(
        summary["methods"]["generated"]
    )
    # few samples: their pooled histogram is farther from that of the real cases; MMD is unbiased
    assert course["2"]["histogram_distance"]["mean"] > course["8"]["histogram_distance"]["mean"]
    for number in ("2", "4"):
        assert course[number]["nearest_rmse"]["mean"] == pytest.approx(good["nearest_rmse"], rel=0.1)
        assert course[number]["mmd_layout"]["sd_of_subsets"] > 0
    assert summary["by_number"] == evaluated(VOLUMES[16:]).summary()["by_number"]


def test_the_nearest_pairs_are_found_again_as_volumes():
    metrics = evaluated([VOLUMES[20], VOLUMES[2].flip(1), VOLUMES[21]])
    sample, copied, real, nearest = metrics.nearest_volumes().items()
    assert (sample[0], copied[0]) == ("generated: sample_1", "case_2, RMSE 0.0000")
    torch.testing.assert_close(sample[1], copied[1], rtol=0, atol=5e-4)  # the sample is kept in half precision
    assert real[0].startswith("real: case_")
    on_grid = float((real[1] - nearest[1]).square().mean().sqrt())  # 24 x 24 x 16: the grid of nearest cases
    assert nearest[0].endswith(f"RMSE {on_grid:.4f}")
    assert GenerationMetrics(["t1"], items(VOLUMES[:2]), None).nearest_volumes() == {}
    assert evaluated([]).nearest_volumes() == {}


def test_results_follow_samples_that_come_later():
    metrics = evaluated(VOLUMES[16:18])
    first = metrics.scalars()
    metrics.update("one_more", VOLUMES[18])
    assert metrics.summary()["cases"] == 3
    assert metrics.scalars() != first
    metrics.reset()
    assert metrics.rows() == []
