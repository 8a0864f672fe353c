"""Laws of flow matching: straight lines from noise to images, and every sampler along them."""

from __future__ import annotations

import math

import pytest
import torch
from monai.networks.schedulers import RFlowScheduler
from monai.networks.schedulers.rectified_flow import timestep_transform

from monai_idm.inferers import InvertibleDiffusionInferer
from monai_idm.losses import min_snr_weights
from monai_idm.schedulers import (
    StridedDDIMScheduler,
    StridedDDPMScheduler,
    noise_levels,
    noise_shift_of,
    predicted_noise,
    predicted_sample,
    prediction_target,
    sampler_starting_at,
)
from tests.schedulers.test_strided import MEAN, SAMPLERS, SD, exact


def flow(sampler=StridedDDIMScheduler, steps=10, **options):
    return sampler(1000, prediction_type="flow", clip_sample=False, num_inference_steps=steps, **options)


def test_noise_is_that_of_monai():
    images, noise = torch.randn(2, 3, 1, 4, 4, 4)
    t = torch.tensor([1, 400, 1000])
    torch.testing.assert_close(flow().add_noise(images, noise, t), RFlowScheduler(1000).add_noise(images, noise, t))
    assert torch.equal(flow().add_noise(images, noise, torch.tensor([1000] * 3)), noise)


def test_a_step_of_ddim_is_that_of_monai():
    ours, monais = flow(), RFlowScheduler(1000)
    monais.set_timesteps(10)
    assert torch.equal(ours.timesteps, monais.timesteps)
    x = y = torch.randn(2, 1, 4, 4)
    for t, end in zip(ours.timesteps, [*ours.timesteps[1:], torch.tensor(0)], strict=True):
        x, x0 = ours.step(torch.tanh(x), t, x)
        y, y0 = monais.step(torch.tanh(y), t, y, end)
        torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(x0, y0, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shift", [1.0, 2.0, 4.0])
def test_a_shift_is_that_of_monai_and_multiplies_the_noise(shift):
    ours, plain = flow(noise_shift=shift), flow()
    monais = timestep_transform(plain.timesteps, (32 * shift) ** 3, num_train_timesteps=1000)
    assert (ours.timesteps - monais).abs().max() <= 0.5
    ratio = [sigma / alpha for alpha, sigma in (noise_levels(s, s.timesteps[1:]) for s in (ours, plain))]
    torch.testing.assert_close(ratio[0], shift * ratio[1], rtol=0.02, atol=0)


@pytest.mark.parametrize("size", [(64, 64, 64), (96, 96, 96), (256, 256, 192), (16, 16, 16)])
def test_the_usual_shift_is_that_of_monai_for_the_volume(size):
    shifted = flow(noise_shift=noise_shift_of(size)).timesteps
    if math.prod(size) < 32**3:  # of small volumes MONAI's has less noise than without
        return torch.testing.assert_close(shifted, flow().timesteps)
    monais = timestep_transform(flow().timesteps, math.prod(size), num_train_timesteps=1000)
    assert (shifted - monais).abs().max() <= 0.5


@pytest.mark.parametrize("zero_terminal_snr", [False, True])
def test_a_shift_of_diffusion_multiplies_the_noise(zero_terminal_snr):
    plain, shifted = (
        StridedDDIMScheduler(100, "cosine", "v_prediction", zero_terminal_snr=zero_terminal_snr, noise_shift=shift)
        for shift in (1.0, 3.0)
    )
    a, b = plain.alphas_cumprod[:-1].double(), shifted.alphas_cumprod[:-1].double()
    torch.testing.assert_close((1 - b) / b, 9 * (1 - a) / a, rtol=1e-3, atol=0)
    assert (shifted.alphas_cumprod[-1] == 0) == zero_terminal_snr


def test_predictions_give_back_image_and_noise():
    scheduler, t = flow(), torch.tensor([400, 400])
    x0, noise = torch.randn(2, 2, 8)
    x_t = scheduler.add_noise(x0, noise, t)
    output = prediction_target(scheduler, x0, noise, t)
    torch.testing.assert_close(output, x0 - noise)
    torch.testing.assert_close(predicted_sample(scheduler, output, 400, x_t), x0)
    torch.testing.assert_close(predicted_noise(scheduler, output, 400, x_t), noise)


def test_min_snr_weights_bound_the_error_of_the_image():
    t = torch.tensor([10, 300, 900])
    alpha, sigma = noise_levels(flow(), t)
    # an error e of the flow is an error sigma e of the image
    expected = ((alpha / sigma) ** 2).clamp(max=5) * sigma**2
    torch.testing.assert_close(min_snr_weights(flow(), t, 5.0), expected)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_ends_at_the_distribution(sampler):
    scheduler = flow(sampler, 50)
    x = torch.randn(40_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(1)
    for t in scheduler.timesteps:
        x, _ = scheduler.step(exact(scheduler, x, t), t, x)
    assert x.mean() == pytest.approx(MEAN, abs=0.02)
    assert x.std() == pytest.approx(SD, rel=0.12)


@pytest.mark.parametrize("sampler", [*SAMPLERS, RFlowScheduler])
def test_a_reconstruction_by_a_perfect_network_is_the_image(sampler):
    image = torch.rand(1, 1, 4, 4, 4)
    training = flow(StridedDDPMScheduler, 1000)
    scheduler = RFlowScheduler(1000) if sampler is RFlowScheduler else flow(sampler)
    if sampler is RFlowScheduler:
        scheduler.set_timesteps(10)
    starting = sampler_starting_at(scheduler, training, 250)
    assert int(starting.timesteps[0]) == 250

    def network(x, timesteps, context=None):
        t = timesteps[0] / 1000
        return (image - x) / t  # x_0 - noise, of x_t = (1 - t) x_0 + t noise

    found = InvertibleDiffusionInferer(training).reconstruct(image, network, 250, scheduler=scheduler)
    torch.testing.assert_close(found, image, rtol=0, atol=1e-4)


@pytest.mark.parametrize("shift", [0, -1.0, float("nan")])
def test_a_shift_below_0_is_refused(shift):
    with pytest.raises(ValueError, match="choose a factor above 0"):
        flow(noise_shift=shift)
