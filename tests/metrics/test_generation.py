"""Sets of volumes with known faults, compared with sets without."""

from __future__ import annotations

import json

import pytest
import torch

from monai_idm.data import generate_phantom
from monai_idm.metrics import GenerationMetrics
from monai_idm.metrics.generation import FEATURES, features

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
    assert good["diversity_ssim"] == pytest.approx(good["real_diversity_ssim"], abs=0.05)
    assert good["nearest_rmse"] == pytest.approx(good["real_nearest_rmse"], rel=0.15)


def test_samples_that_are_all_alike_show_in_their_pairs(good):
    alike = evaluated([noisy(VOLUMES[16] * (1 - 0.01 * i)) for i in range(8)]).scalars()
    assert alike["diversity_ssim"] > good["real_diversity_ssim"] + 0.2


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
    assert figures["diversity_ssim"] is None
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
    expected = {name: value for name, value in good.items() if "nearest" not in name and not name.startswith("real_")}
    assert metrics.scalars() == pytest.approx(expected)
    assert [row["subject"] for row in metrics.rows()] == [f"sample_{i}" for i in range(8)]
    assert "generated" in metrics.table()
