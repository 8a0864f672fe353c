"""Laws of the strided sampler, with the exact denoiser of a normal distribution where a network would stand."""

from __future__ import annotations

import pytest
import torch
from monai.networks.schedulers import DDIMScheduler

from monai_idm.schedulers import StridedDDIMScheduler, predicted_noise, predicted_sample

MEAN, SD = 0.3, 0.2


def exact(scheduler, x, t):
    """What a perfect network predicts at x_t if the data are N(MEAN, SD^2)."""
    a = scheduler.alphas_cumprod[t].double()
    x0 = MEAN + a.sqrt() * SD**2 / (a * SD**2 + 1 - a) * (x - a.sqrt() * MEAN)
    noise = (x - a.sqrt() * x0) / (1 - a).sqrt()
    velocity = a.sqrt() * noise - (1 - a).sqrt() * x0
    return {"sample": x0, "epsilon": noise, "v_prediction": velocity}[scheduler.prediction_type]


@pytest.mark.parametrize("steps", [5, 20, 50])
@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
def test_the_mean_is_right_at_few_steps(steps, prediction_type):
    scheduler = StridedDDIMScheduler(2000, "cosine", prediction_type, clip_sample=False, num_inference_steps=steps)
    x = torch.randn(20_000, dtype=torch.float64)
    for t in scheduler.timesteps:
        x, _ = scheduler.step(exact(scheduler, x, t), t, x)
    assert x.mean() == pytest.approx(MEAN, abs=0.02)


def test_every_step_equals_monai_core():
    ours = StridedDDIMScheduler(50, "cosine", "v_prediction")
    core = DDIMScheduler(50, "cosine", prediction_type="v_prediction")
    assert torch.equal(ours.timesteps, core.timesteps)
    x = y = torch.randn(2, 1, 4, 4)
    for t in core.timesteps:
        x, _ = ours.step(torch.tanh(x), t, x)
        y, _ = core.step(torch.tanh(y), t, y)
    torch.testing.assert_close(x, y)


def test_timesteps_are_trailing_and_a_step_ends_at_the_next():
    scheduler = StridedDDIMScheduler(1000, "cosine", clip_sample=False, num_inference_steps=10)
    assert scheduler.timesteps.tolist() == [999, 899, 799, 699, 599, 499, 399, 299, 199, 99]
    x0, noise = torch.randn(8), torch.randn(8)
    for t, s in [(999, 899), (250, 199), (99, None)]:
        x_t = scheduler.add_noise(x0, noise, torch.tensor(t))
        x_s, _ = scheduler.step(noise, t, x_t)
        expected = x0 if s is None else scheduler.add_noise(x0, noise, torch.tensor(s))
        torch.testing.assert_close(x_s, expected, rtol=0, atol=2e-3 if t == 999 else 1e-4)


@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
def test_predictions_give_back_sample_and_noise(prediction_type):
    scheduler = StridedDDIMScheduler(100, "cosine", prediction_type)
    x0, noise, t = torch.randn(2, 8).double(), torch.randn(2, 8).double(), torch.tensor([40, 40])
    x_t = scheduler.add_noise(x0, noise, t)
    output = {"epsilon": noise, "sample": x0, "v_prediction": scheduler.get_velocity(x0, noise, t)}[prediction_type]
    torch.testing.assert_close(predicted_sample(scheduler, output, 40, x_t), x0)
    torch.testing.assert_close(predicted_noise(scheduler, output, 40, x_t), noise)


def test_the_prediction_is_clipped_to_the_data_range():
    scheduler = StridedDDIMScheduler(100, "cosine", "sample", clip_sample_min=0.0, clip_sample_max=1.0)
    _, x0 = scheduler.step(torch.tensor([-3.0, 0.5, 3.0]), 50, torch.zeros(3))
    assert x0.tolist() == [0.0, 0.5, 1.0]


def test_eta_adds_noise_of_the_generator():
    scheduler = StridedDDIMScheduler(100, "cosine", num_inference_steps=10)
    arguments = torch.zeros(100), 50, torch.zeros(100)
    draws = [scheduler.step(*arguments, eta=1.0, generator=torch.Generator().manual_seed(s))[0] for s in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


@pytest.mark.parametrize("steps", [0, 101])
def test_an_impossible_number_of_steps_is_refused(steps):
    with pytest.raises(ValueError, match="choose 1 to num_train_timesteps=100"):
        StridedDDIMScheduler(100, "cosine").set_timesteps(steps)


def test_an_unknown_prediction_type_is_refused():
    with pytest.raises(ValueError, match="epsilon, sample, v_prediction"):
        StridedDDIMScheduler(100, "cosine", "noise")
