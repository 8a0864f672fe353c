"""Laws of Heun's sampler, with the exact denoiser of a normal distribution in place of a network."""

from __future__ import annotations

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


def test_halving_the_steps_of_heun_quarters_its_error_and_only_halves_that_of_ddim():
    x = torch.linspace(-2, 2, 101, dtype=torch.float64)
    expected = MEAN + SD * x  # where the sampling ODE ends
    errors = {
        cls: [float((sampled(cls, n, x) - expected).abs().max()) for n in (20, 40, 80)]
        for cls in (StridedDDIMScheduler, StridedHeunScheduler)
    }
    for coarse, fine in zip(errors[StridedDDIMScheduler], errors[StridedDDIMScheduler][1:], strict=False):
        assert 1.7 < coarse / fine < 2.5
    for coarse, fine in zip(errors[StridedHeunScheduler], errors[StridedHeunScheduler][1:], strict=False):
        assert 3.4 < coarse / fine < 4.6
    assert errors[StridedHeunScheduler][1] < 0.5 * errors[StridedDDIMScheduler][2]  # with as many passes


def test_the_second_pass_replaces_the_step_by_one_along_the_mean_velocity():
    heun = StridedHeunScheduler(100, "cosine", "v_prediction", clip_sample=False, num_inference_steps=4)
    ddim = StridedDDIMScheduler(100, "cosine", "v_prediction", clip_sample=False, num_inference_steps=4)
    x, first, second = torch.randn(3, 8, dtype=torch.float64)
    between, _ = heun.step(first, 99, x)
    torch.testing.assert_close(between, ddim.step(first, 99, x)[0])
    found, x0 = heun.step(second, 74, between)
    angle = heun.alphas_cumprod[[99, 74]].sqrt().acos()
    torch.testing.assert_close(found, x - (angle[0] - angle[1]) * (first + second) / 2)
    torch.testing.assert_close(x0, ddim.step(second, 74, between)[1])
    last, _ = heun.step(second, 24, found)
    torch.testing.assert_close(last, ddim.step(second, 24, found)[0])


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
