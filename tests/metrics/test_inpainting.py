"""Metrics of inpainting: rows of every method, in the hole alone."""

from __future__ import annotations

import pytest
import torch

from monai_idm.metrics import InpaintingMetrics, psnr
from monai_idm.metrics.fills import harmonic_fill

SIZE = (16, 14, 12)


def case(draws=2):
    rng = torch.Generator().manual_seed(0)
    reference = torch.rand(2, *SIZE, generator=rng)
    hole = torch.zeros(1, *SIZE)
    hole[:, 4:9, 3:8, 4:8] = 1
    noise = torch.rand(draws, 2, *SIZE, generator=rng) * 0.2
    return torch.where(hole > 0, reference + noise, reference), reference, hole


def test_figures_are_those_of_the_voxels_in_the_hole():
    draws, reference, hole = case()
    metrics = InpaintingMetrics(["t1", "t2"])
    metrics.update("a", draws, reference, hole)
    found = metrics.scalars()
    expected = psnr(draws.mean(0), reference, hole > 0)
    assert found["psnr_t1_hole"] == pytest.approx(float(expected[0]))
    assert found["psnr_hole"] == pytest.approx(float(expected.mean()))
    harmonic = psnr(harmonic_fill(reference, hole), reference, hole > 0).mean()
    assert found["psnr_hole_gain_over_harmonic"] == pytest.approx(float(expected.mean() - harmonic))
    assert "hole: voxels, and centres of SSIM windows, inside the hole; whole: the whole volume." in metrics.table()


def test_one_draw_has_no_ensemble():
    draws, reference, hole = case(1)
    metrics = InpaintingMetrics(["t1", "t2"])
    metrics.update("a", draws, reference, hole)
    assert {row["method"] for row in metrics.rows()} == {"draw", "harmonic", "mirrored"}
    with pytest.raises(ValueError, match="draws of shape"):
        metrics.update("a", draws[:, :1], reference, hole)
