"""Laws of the strided samplers, with the exact denoiser of a normal distribution in place of a network."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from monai.networks.schedulers import DDIMScheduler, DDPMScheduler

from monai_idm.noise import seeded_noise
from monai_idm.schedulers import (
    DPMSolverPlusPlusScheduler,
    StridedDDIMScheduler,
    StridedDDPMScheduler,
    StridedHeunScheduler,
    noise_levels,
    predicted_noise,
    predicted_sample,
)

SAMPLERS = [StridedDDPMScheduler, StridedDDIMScheduler, DPMSolverPlusPlusScheduler, StridedHeunScheduler]

MEAN, SD = 0.3, 0.2


def exact(scheduler, x, t):
    """What a perfect network predicts at x_t if the data are N(MEAN, SD^2)."""
    alpha, sigma = (level.double() for level in noise_levels(scheduler, t))
    x0 = MEAN + alpha * SD**2 / (alpha**2 * SD**2 + sigma**2) * (x - alpha * MEAN)
    noise = (x - alpha * x0) / sigma
    outputs = {"sample": x0, "epsilon": noise, "v_prediction": alpha * noise - sigma * x0, "flow": x0 - noise}
    return outputs[scheduler.prediction_type]


def drawn(scheduler):
    x = torch.randn(40_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(1)
    for t in scheduler.timesteps:
        x, _ = scheduler.step(exact(scheduler, x, t), t, x)
    return x


@pytest.mark.parametrize("spacing", ["trailing", "karras"])
@pytest.mark.parametrize("steps", [5, 10, 20, 50])
@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction", "flow"])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_mean_is_right_at_few_steps(sampler, prediction_type, steps, spacing):
    scheduler = sampler(
        2000,
        "cosine",
        prediction_type,
        clip_sample=False,
        num_inference_steps=steps,
        zero_terminal_snr=prediction_type == "v_prediction",
        timestep_spacing=spacing,
    )
    assert drawn(scheduler).mean() == pytest.approx(MEAN, abs=0.02)


def closed_form_spread(scheduler, eta=0.0):
    """Standard deviation at the end of DDIM's recursion, in which each step scales the variance and adds to it."""
    ts = [int(t) for t in scheduler.timesteps]
    levels = [*scheduler.alphas_cumprod[ts].double().tolist(), 1.0]
    variance = 1.0
    for a, b in pairwise(levels):
        gain = a**0.5 * SD**2 / (a * SD**2 + 1 - a)  # of x0 with x_t
        noise = (1 - a**0.5 * gain) / (1 - a) ** 0.5
        added = eta**2 * (1 - b) / (1 - a) * (1 - a / b)
        variance = (b**0.5 * gain + (1 - b - added) ** 0.5 * noise) ** 2 * variance + added
    return variance**0.5


@pytest.mark.parametrize("zero_terminal_snr", [False, True])
@pytest.mark.parametrize("steps", [5, 10, 20, 50, 1000])
@pytest.mark.parametrize(("sampler", "eta"), [(StridedDDIMScheduler, 0.0), (StridedDDPMScheduler, 1.0)])
def test_the_spread_is_that_of_the_recursion(sampler, eta, steps, zero_terminal_snr):
    scheduler = sampler(
        1000,
        "cosine",
        "sample",
        clip_sample=False,
        num_inference_steps=steps,
        zero_terminal_snr=zero_terminal_snr,
    )
    assert drawn(scheduler).std() == pytest.approx(closed_form_spread(scheduler, eta), rel=0.02)


def test_few_steps_of_ddim_lose_spread_and_dpm_solver_keeps_it():
    for steps, ddim_keeps, at_least in [(10, 0.70, 0.70), (20, 0.84, 0.9), (50, 0.93, 0.97)]:
        for zero_terminal_snr in (False, True):
            setting = (1000, "cosine", "v_prediction", False)
            options = {"num_inference_steps": steps, "zero_terminal_snr": zero_terminal_snr}
            ddim = StridedDDIMScheduler(*setting, **options)
            assert closed_form_spread(ddim) / SD == pytest.approx(ddim_keeps, abs=0.01)
            spread = drawn(DPMSolverPlusPlusScheduler(*setting, **options)).std() / SD
            assert at_least < spread < 2 - at_least


def test_the_solver_follows_its_recursion():
    scheduler = DPMSolverPlusPlusScheduler(1000, "cosine", "sample", clip_sample=False, num_inference_steps=20)
    ts = [int(t) for t in scheduler.timesteps]
    levels = scheduler.alphas_cumprod[ts].double().tolist()
    ratios = [math.log(a / (1 - a)) / 2 for a in levels]
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)
    expected, predictions = x, []
    for i, t in enumerate(ts):
        predictions.append(exact(scheduler, expected, t))
        if i == len(ts) - 1:
            expected = predictions[-1]
            break
        direction, h = predictions[-1], ratios[i + 1] - ratios[i]
        if i:
            r = (ratios[i] - ratios[i - 1]) / h
            direction = (1 + 1 / (2 * r)) * predictions[-1] - 1 / (2 * r) * predictions[-2]
        a, b = levels[i], levels[i + 1]
        expected = ((1 - b) / (1 - a)) ** 0.5 * expected - b**0.5 * (math.exp(-h) - 1) * direction
        x, _ = scheduler.step(exact(scheduler, x, t), t, x)
        torch.testing.assert_close(x, expected, rtol=1e-5, atol=1e-6)


def test_an_interrupted_solver_starts_anew():
    x, output = torch.randn(8), torch.randn(8)
    fresh, used = (DPMSolverPlusPlusScheduler(100, "cosine", "sample", num_inference_steps=4) for _ in range(2))
    used.step(output, 99, x)
    used.step(output, 74, x)
    assert torch.equal(used.step(x, 99, output)[0], fresh.step(x, 99, output)[0])
    used.step(output, 99, x)
    used.set_timesteps(4)
    first_order = DPMSolverPlusPlusScheduler(100, "cosine", "sample", num_inference_steps=4)
    assert torch.equal(used.step(x, 74, output)[0], first_order.step(x, 74, output)[0])


@pytest.mark.parametrize("variance_type", ["fixed_small", "fixed_large"])
@pytest.mark.parametrize("schedule", ["cosine", "linear_beta"])
def test_every_step_of_ddpm_equals_monai_core(schedule, variance_type):
    ours = StridedDDPMScheduler(200, schedule, "v_prediction", variance_type=variance_type)
    core = DDPMScheduler(200, schedule, variance_type, prediction_type="v_prediction")
    assert torch.equal(ours.timesteps, core.timesteps)
    x = y = torch.randn(2, 1, 4, 4)
    for t in core.timesteps:
        x, _ = ours.step(torch.tanh(x), t, x, torch.Generator().manual_seed(int(t)))
        y, _ = core.step(torch.tanh(y), t, y, torch.Generator().manual_seed(int(t)))
        if t > 0:
            torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(x, y, rtol=0, atol=5e-4)  # core's last step rounds 1 - 0.9999


@pytest.mark.parametrize("schedule", ["cosine", "linear_beta"])
def test_every_step_of_ddim_equals_monai_core(schedule):
    ours = StridedDDIMScheduler(50, schedule, "v_prediction")
    core = DDIMScheduler(50, schedule, prediction_type="v_prediction")
    assert torch.equal(ours.timesteps, core.timesteps)
    x = y = torch.randn(2, 1, 4, 4)
    for t in core.timesteps:
        x, _ = ours.step(torch.tanh(x), t, x)
        y, _ = core.step(torch.tanh(y), t, y)
    torch.testing.assert_close(x, y)


@pytest.mark.parametrize("schedule", ["cosine", "linear_beta", "scaled_linear_beta"])
def test_zero_terminal_snr_leaves_nothing_at_the_end_and_the_beginning_as_it_is(schedule):
    plain, rescaled = (
        StridedDDIMScheduler(100, schedule, "v_prediction", zero_terminal_snr=zero) for zero in (False, True)
    )
    assert rescaled.alphas_cumprod[-1] == 0
    assert plain.alphas_cumprod[-1] > 0
    torch.testing.assert_close(rescaled.alphas_cumprod[0], plain.alphas_cumprod[0])
    assert (rescaled.alphas_cumprod.diff() < 0).all()
    torch.testing.assert_close(torch.cumprod(1 - rescaled.betas, 0), rescaled.alphas_cumprod, rtol=1e-4, atol=1e-7)
    x0, noise = torch.randn(2, 8)
    assert torch.equal(rescaled.add_noise(x0, noise, torch.tensor(99)), noise)


def test_noise_alone_predicted_as_noise_is_refused():
    with pytest.raises(ValueError, match="choose 'v_prediction' or 'sample'"):
        StridedDDPMScheduler(100, "cosine", "epsilon", zero_terminal_snr=True)


def test_an_unknown_variance_is_refused():
    with pytest.raises(ValueError, match="choose fixed_small or fixed_large"):
        StridedDDPMScheduler(100, "cosine", variance_type="learned")


def test_each_of_a_batch_may_have_its_own_noise():
    scheduler = StridedDDPMScheduler(100, "cosine", num_inference_steps=10)
    x = torch.zeros(2, 1, 4, 4)
    both, _ = scheduler.step(x, 50, x, [torch.Generator().manual_seed(seed) for seed in (3, 4)])
    alone, _ = scheduler.step(x[:1], 50, x[:1], [torch.Generator().manual_seed(4)])
    assert torch.equal(both[1:], alone)
    assert not torch.equal(both[:1], alone)
    with pytest.raises(ValueError, match="1 generators for a batch of 2"):
        scheduler.step(x, 50, x, [torch.Generator()])


def test_a_seeded_copy_draws_every_image_s_noise_by_its_seed():
    scheduler = StridedDDPMScheduler(100, "cosine", num_inference_steps=10)
    nothing = torch.zeros(2, 1, 4, 4)  # zero sample and output: a step returns only its noise
    both, alone = scheduler.seeded([3, 4]), scheduler.seeded([4])
    first, _ = both.step(nothing, 50, nothing)
    assert torch.equal(first[1:], alone.step(nothing[:1], 50, nothing[:1])[0])
    second, _ = both.step(nothing, 50, nothing)
    start = torch.stack([seeded_noise((1, 4, 4), seed) for seed in (3, 4)])
    noises = [first[0], first[1], second[0], second[1], start[0], start[1]]
    correlation = torch.corrcoef(torch.stack([noise.flatten() for noise in noises])) - torch.eye(6)
    assert correlation.abs().max() < 0.9  # no step repeats the noise of another step or of the start
    assert not torch.equal(*(scheduler.step(nothing, 50, nothing)[0] for _ in range(2)))  # itself still unseeded


def test_timesteps_are_trailing_and_a_step_ends_at_the_next():
    scheduler = StridedDDIMScheduler(1000, "cosine", clip_sample=False, num_inference_steps=10)
    assert scheduler.timesteps.tolist() == [999, 899, 799, 699, 599, 499, 399, 299, 199, 99]
    x0, noise = torch.randn(8), torch.randn(8)
    for t, s in [(999, 899), (250, 199), (99, None)]:
        x_t = scheduler.add_noise(x0, noise, torch.tensor(t))
        x_s, _ = scheduler.step(noise, t, x_t)
        expected = x0 if s is None else scheduler.add_noise(x0, noise, torch.tensor(s))
        torch.testing.assert_close(x_s, expected, rtol=0, atol=2e-3 if t == 999 else 1e-4)


SETTINGS = [{}, {"noise_shift": 4.0}, {"zero_terminal_snr": True}, {"prediction_type": "flow", "noise_shift": 2.0}]


@pytest.mark.parametrize("settings", SETTINGS)
def test_denser_timesteps_are_as_many_as_asked_for_and_follow_the_ratios(settings):
    options = {"prediction_type": "v_prediction", **settings}
    scheduler = StridedDDIMScheduler(2000, "cosine", timestep_spacing="karras", **options)
    every = StridedDDIMScheduler(2000, "cosine", noise_shift=1.0, prediction_type=options["prediction_type"]).timesteps
    assert torch.equal(scheduler.timesteps, every)
    for n in (1, 2, 7, 10, 50, 1999):
        scheduler.set_timesteps(n)
        assert len(scheduler.timesteps) == n
        assert scheduler.timesteps[0] == every[0]
        assert (scheduler.timesteps.diff() < 0).all()
        assert scheduler.timesteps[-1] >= every[-1]
    scheduler.set_timesteps(10)
    alpha, sigma = noise_levels(scheduler, scheduler.timesteps[1:])
    most, least = (80 * scheduler.noise_shift) ** (1 / 7), 0.02 ** (1 / 7)
    expected = [(most + i / 9 * (least - most)) ** 7 for i in range(1, 10)]
    assert (sigma / alpha).tolist() == pytest.approx(expected, rel=0.3)


def test_denser_timesteps_end_nearer_to_the_image_in_the_units_of_its_range():
    ends = []
    for low in (-1.0, 0.0):
        scheduler = StridedDDIMScheduler(
            4000, "cosine", clip_sample_min=low, timestep_spacing="karras", num_inference_steps=9
        )
        alpha, sigma = noise_levels(scheduler, scheduler.timesteps[-1])
        ends.append(float(sigma / alpha))
    assert ends == pytest.approx([0.02, 0.01], rel=0.1)


def test_an_unknown_spacing_is_refused():
    with pytest.raises(ValueError, match="choose trailing or karras"):
        StridedDDIMScheduler(100, "cosine", timestep_spacing="leading")


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


def test_eta_of_ddim_is_the_share_of_the_noise_of_ddpm():
    setting = (1000, "cosine", "sample", False)
    ddim, ddpm = (s(*setting, num_inference_steps=20) for s in (StridedDDIMScheduler, StridedDDPMScheduler))
    x, output = torch.randn(2, 8, generator=torch.Generator().manual_seed(0))
    noise = [torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)]
    torch.testing.assert_close(
        ddim.step(output, 499, x, eta=1.0, generator=noise[0])[0], ddpm.step(output, 499, x, noise[1])[0]
    )

    def apart(eta):
        ends = [ddim.step(output, 499, x, eta, torch.Generator().manual_seed(seed))[0] for seed in (1, 2)]
        return ends[0] - ends[1]

    torch.testing.assert_close(apart(0.5), apart(1.0) / 2)
