"""Laws of Heun's sampler, with the exact denoiser of a normal distribution in place of a network."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from monai_idm.inferers import InvertibleDiffusionInferer
from monai_idm.schedulers import StridedDDIMScheduler, StridedHeunScheduler
from tests.schedulers.test_strided import MEAN, SD, exact


def sampled(cls, steps, x):
    scheduler = cls(1600, "cosine", "sample", clip_sample=False, num_inference_steps=steps)
    angles = (torch.arange(1600, dtype=torch.float64) + 1) / 1600 * torch.pi / 2
    scheduler.alphas_cumprod = angles.cos() ** 2  # MONAI's are rounded to float32, which matters at low noise
    for t in scheduler.timesteps:
        x, _ = scheduler.step(exact(scheduler, x, t), t, x)
    return x


def test_halving_the_steps_of_heun_more_than_halves_its_error_and_only_halves_that_of_ddim():
    x = torch.linspace(-2, 2, 101, dtype=torch.float64)
    expected = MEAN + SD * x  # where the sampling ODE ends
    errors = {
        cls: [float((sampled(cls, n, x) - expected).abs().max()) for n in (20, 40, 80)]
        for cls in (StridedDDIMScheduler, StridedHeunScheduler)
    }
    for coarse, fine in pairwise(errors[StridedDDIMScheduler]):
        assert 1.7 < coarse / fine < 2.5
    for coarse, fine in pairwise(errors[StridedHeunScheduler]):
        assert 2.9 < coarse / fine < 4.6
    assert errors[StridedHeunScheduler][1] < 0.7 * errors[StridedDDIMScheduler][2]  # with as many passes


@pytest.mark.parametrize(("t", "s"), [(99, 74), (60, 20), (40, 0)])
def test_the_second_pass_replaces_the_step_by_many_short_ones_with_images_between_both(t, s):
    """Steps of DDIM whose predicted image changes linearly with the factor of the image in x_t."""
    heun = StridedHeunScheduler(100, "cosine", "sample", clip_sample=False, num_inference_steps=2)
    heun.timesteps = torch.tensor([t, s, s])
    x, first, second = torch.randn(3, 8, dtype=torch.float64)
    between, _ = heun.step(first, t, x)
    alpha_bar = heun.alphas_cumprod.double()
    alphas, many = torch.linspace(alpha_bar[t].sqrt(), alpha_bar[s].sqrt(), 20001, dtype=torch.float64), x
    for before, after in pairwise(alphas):
        image = first + (second - first) * ((before + after) / 2 - alphas[0]) / (alphas[-1] - alphas[0])
        shrink = ((1 - after**2) / (1 - before**2)).sqrt()
        many = after * image + shrink * (many - before * image)
    found, x0 = heun.step(second, s, between)
    torch.testing.assert_close(found, many, rtol=1e-5, atol=1e-5)
    assert torch.equal(x0, second)
    last, _ = heun.step(second, s, found)
    assert torch.equal(last, second)


@pytest.mark.parametrize("steps", [2, 5, 10])
def test_no_step_leaves_the_range_of_the_images_however_long(steps):
    heun = StridedHeunScheduler(1000, "cosine", "sample", num_inference_steps=steps, timestep_spacing="karras")
    x = torch.zeros(8)
    for number, t in enumerate(heun.timesteps):
        x, _ = heun.step(torch.full((8,), 1.0 if number % 2 else -1.0), t, x)
        assert x.abs().max() <= 1


def test_every_timestep_but_the_first_is_taken_twice_also_on_the_way_back_of_a_reconstruction():
    heun = StridedHeunScheduler(100, "cosine", "sample", num_inference_steps=4)
    assert heun.timesteps.tolist() == [99, 74, 74, 49, 49, 24, 24]
    calls = []

    def network(x, timesteps, context=None):
        calls.append(int(timesteps[0]))
        return torch.zeros_like(x)

    InvertibleDiffusionInferer(heun).reconstruct(torch.zeros(1, 1, 4), network, 60)
    assert calls == [60, 49, 49, 24, 24]


def test_what_an_interrupted_sampling_leaves_is_forgotten():
    x = torch.randn(8)
    fresh, used = (StridedHeunScheduler(100, "cosine", "sample", num_inference_steps=4) for _ in range(2))
    used.step(torch.ones(8), 99, torch.zeros(8))
    for t in fresh.timesteps:
        prediction = torch.tanh(x)
        following, _ = fresh.step(prediction, t, x)
        assert torch.equal(used.step(prediction, t, x)[0], following)
        x = following


def test_predictions_are_clipped():
    heun = StridedHeunScheduler(100, "cosine", "sample", clip_sample_min=0.0, clip_sample_max=1.0)
    assert heun.step(torch.tensor([-3.0, 0.5, 3.0]), 50, torch.zeros(3))[1].tolist() == [0.0, 0.5, 1.0]


def test_an_impossible_number_of_steps_is_refused():
    with pytest.raises(ValueError, match="choose 1 to num_train_timesteps=100"):
        StridedHeunScheduler(100, "cosine").set_timesteps(0)
