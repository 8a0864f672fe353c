"""The lookup from labels to intensities is the best linear one, and metrics know it as the baseline."""

from __future__ import annotations

import pytest
import torch

from monai_idm.metrics import LabelLookup, SemanticMetrics, psnr

SIZE = (12, 10, 9)
WEIGHTS = torch.tensor([[0.5, 0.2, 0.1], [0.0, 0.3, 0.4]])  # two contrasts: region, region, everything


def case(seed, noise=0.0):
    rng = torch.Generator().manual_seed(seed)
    label = torch.rand(2, *SIZE, generator=rng)
    mask = torch.zeros(1, *SIZE)
    mask[:, 2:-2, 2:-2, 2:-2] = 1
    parts = torch.cat([label, torch.ones(1, *SIZE)])
    image = torch.einsum("cr,rxyz->cxyz", WEIGHTS, parts) + noise * torch.randn(2, *SIZE, generator=rng)
    return {"image": 2 * image - 1, "label": label, "mask": mask}


def test_intensities_that_follow_from_the_labels_are_found():
    lookup = LabelLookup([case(0), case(1)])
    other = case(2)
    found = lookup(other["label"], other["mask"])
    inside = other["mask"][0] > 0
    torch.testing.assert_close(found[:, inside], (other["image"][:, inside] + 1) / 2, atol=1e-5, rtol=0)
    assert not found[:, ~inside].any()


def test_no_other_linear_function_is_better_on_the_training_cases():
    item = case(0, noise=0.1)
    lookup, inside = LabelLookup([item]), item["mask"][0] > 0
    target = (item["image"][:, inside] + 1) / 2

    def error(weights):
        parts = torch.cat([item["label"], torch.ones(1, *SIZE)])[:, inside].double()
        return float((weights.T @ parts - target).square().mean())

    lookup(item["label"], item["mask"])
    best = lookup._weights
    for place in range(best.numel()):
        for step in (-1e-2, 1e-2):
            changed = best.clone()
            changed.view(-1)[place] += step
            assert error(changed) > error(best)


def test_a_region_that_no_training_case_has_changes_nothing():
    items = [case(0), case(1)]
    for item in items:
        item["label"][1] = 0
    assert LabelLookup(items)(items[0]["label"], items[0]["mask"]).isfinite().all()
    with pytest.raises(ValueError, match="no training case"):
        LabelLookup([])(items[0]["label"], items[0]["mask"])


def test_figures_are_those_of_the_brain():
    item = case(0, noise=0.1)
    reference = (item["image"] + 1) / 2
    draws = torch.stack([reference + 0.1, reference - 0.05])
    metrics = SemanticMetrics(["t1", "t2"], LabelLookup([case(1)]))
    metrics.update("a", draws, reference, item["label"], item["mask"])
    found = metrics.scalars()
    expected = psnr(draws.mean(0), reference, item["mask"]).mean()
    assert found["psnr_brain"] == pytest.approx(float(expected))
    assert found["psnr_brain_gain_over_lookup"] == pytest.approx(found["psnr_brain"] - found["lookup_psnr_brain"])
    assert "lookup: the best intensities" in metrics.table()
