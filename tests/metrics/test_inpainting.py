"""Metrics of inpainting: rows of every method, in the hole alone."""

from __future__ import annotations

import pytest
import torch

from monai_idm.metrics import InpaintingMetrics, psnr
from monai_idm.metrics.inpainting import mirrored_fill

SIZE = (16, 14, 12)


def case(draws=2):
    rng = torch.Generator().manual_seed(0)
    reference = torch.rand(2, *SIZE, generator=rng)
    hole = torch.zeros(1, *SIZE)
    hole[:, 4:9, 3:8, 4:8] = 1
    noise = torch.rand(draws, 2, *SIZE, generator=rng) * 0.2
    smooth = torch.where(hole > 0, torch.rand(2, *SIZE, generator=rng), reference)
    return torch.where(hole > 0, reference + noise, reference), reference, smooth, hole


def test_figures_are_those_of_the_voxels_in_the_hole():
    draws, reference, smooth, hole = case()
    metrics = InpaintingMetrics(["t1", "t2"])
    metrics.update("a", draws, reference, smooth, hole)
    found = metrics.scalars()
    expected = psnr(draws.mean(0), reference, hole > 0)
    assert found["psnr_t1_hole"] == pytest.approx(float(expected[0]))
    assert found["psnr_hole"] == pytest.approx(float(expected.mean()))
    harmonic = psnr(smooth, reference, hole > 0).mean()
    assert found["psnr_hole_gain_over_harmonic"] == pytest.approx(float(expected.mean() - harmonic))
    assert "hole: voxels, and centres of SSIM windows, inside the hole; whole: the whole volume." in metrics.table()


def test_one_draw_has_no_ensemble():
    draws, reference, smooth, hole = case(1)
    metrics = InpaintingMetrics(["t1", "t2"])
    metrics.update("a", draws, reference, smooth, hole)
    assert {row["method"] for row in metrics.rows()} == {"draw", "harmonic", "mirrored"}
    with pytest.raises(ValueError, match="draws of shape"):
        metrics.update("a", draws[:, :1], reference, smooth, hole)
    with pytest.raises(ValueError, match=r"a fill of \(1, 16"):
        metrics.update("a", draws, reference, smooth[:1], hole)


def test_the_other_side_fills_the_hole():
    volume = torch.rand(2, *SIZE, generator=torch.Generator().manual_seed(0))
    hole = torch.zeros(1, *SIZE)
    hole[:, :3, 2:5, 2:5] = 1
    filled = mirrored_fill(volume, hole)
    assert torch.equal(filled[:, :3, 2:5, 2:5], volume.flip(1)[:, :3, 2:5, 2:5])
    assert torch.equal(filled[:, hole[0] == 0], volume[:, hole[0] == 0])
