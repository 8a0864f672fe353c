"""Segmentation by diffusion: what is drawn, how draws are combined, and sampling in patches."""

from __future__ import annotations

import pytest
import torch
from monai.inferers import SlidingWindowInferer

from monai_idm.networks import PatchDiffusionUNet
from monai_idm.schedulers import StridedDDIMScheduler
from monai_idm.tasks import DiffusionSegmentationInferer

SIZE = (8, 12, 8)


def scheduler(steps=4):
    return StridedDDIMScheduler(100, "linear_beta", prediction_type="sample", num_inference_steps=steps)


def window_of(size):
    return None if size is None else SlidingWindowInferer(size, overlap=0.25, mode="gaussian")


class Oracle:
    """Predicts the condition's first channel, which is the mask, and records its calls."""

    def __init__(self, in_channels=3):
        self.in_channels = in_channels
        self.calls = []

    def __call__(self, x, timesteps, context=None):
        self.calls.append((tuple(x.shape), int(timesteps[0])))
        return x[:, 1:2]


class Undecided(Oracle):
    """Predicts the sign of the noise it is given."""

    def __call__(self, x, timesteps, context=None):
        return x[:, :1].sign()


def condition(batch=2):
    mask = torch.where(torch.randn(batch, 1, *SIZE, generator=torch.Generator().manual_seed(0)) > 0, 1.0, -1.0)
    return torch.cat([mask, torch.randn(batch, 1, *SIZE)], 1), (mask > 0).float()


@pytest.mark.parametrize("patch_size", [None, 8, (8, 6, 4)])
def test_a_network_that_knows_the_mask_gives_it(patch_size):
    inputs, mask = condition()
    network = Oracle()
    found = DiffusionSegmentationInferer(scheduler(), window=window_of(patch_size))(inputs, network)
    assert found.dtype == torch.float32
    assert torch.equal(found, mask)
    window = SIZE if patch_size is None else (8, 8, 8) if patch_size == 8 else patch_size
    assert {shape[2:] for shape, _ in network.calls} == {window}
    assert sorted({t for _, t in network.calls}, reverse=True) == [99, 74, 49, 24]


def test_patches_of_a_local_network_give_what_the_whole_gives():
    inputs, _ = condition()
    whole, patches = (
        DiffusionSegmentationInferer(scheduler(), window=window_of(p)).draws(inputs, Undecided()) for p in (None, 4)
    )
    torch.testing.assert_close(whole, patches)


def test_draws_differ_repeat_themselves_and_are_averaged():
    inputs, _ = condition()
    torch.manual_seed(1)
    three = DiffusionSegmentationInferer(scheduler(), num_draws=3, seed=7).draws(inputs, Undecided())
    assert three.shape == (2, 3, 1, *SIZE)
    assert ((three >= 0) & (three <= 1)).all()
    assert not torch.equal(three[:, 0], three[:, 1])
    torch.manual_seed(2)
    second = DiffusionSegmentationInferer(scheduler(), seed=8).draws(inputs, Undecided())
    assert torch.equal(second[:, 0], three[:, 1])
    labels = DiffusionSegmentationInferer(scheduler(), num_draws=3, seed=7)(inputs, Undecided())
    assert torch.equal(labels, (three.mean(1) > 0.5).float())


def test_a_mask_does_not_depend_on_the_other_cases_of_its_batch():
    inputs, _ = condition()
    inferer = DiffusionSegmentationInferer(scheduler(), num_draws=2)
    both, alone = inferer.draws(inputs, Undecided()), inferer.draws(inputs[1:], Undecided())
    assert torch.equal(both[1:], alone)


def test_a_real_network_segments():
    network = PatchDiffusionUNet(3, 3, 1, channels=(8, 16), num_res_blocks=1, norm_num_groups=4)
    inputs, _ = condition(1)
    found = DiffusionSegmentationInferer(scheduler(2), window=window_of(8))(inputs, network)
    assert found.shape == (1, 1, *SIZE)
    assert set(found.unique().tolist()) <= {0.0, 1.0}


def test_a_condition_that_lacks_channels_is_refused():
    inputs, _ = condition()
    with pytest.raises(ValueError, match=r"8 input channels, but 1 drawn .* of 2 make 3; .* AddCoordinatesd"):
        DiffusionSegmentationInferer(scheduler())(inputs, Oracle(8))


@pytest.mark.parametrize("arguments", [{"num_regions": 0}, {"num_draws": 0}])
def test_unfit_arguments_are_refused(arguments):
    with pytest.raises(ValueError, match="1 or more of each"):
        DiffusionSegmentationInferer(scheduler(), **arguments)
