"""Min-SNR weights of the loss."""

from __future__ import annotations

import pytest
import torch
from monai.networks.schedulers import DDPMScheduler

from monai_idm.losses import InvertibleDiffusionLoss, min_snr_weights
from monai_idm.schedulers import StridedDDPMScheduler, predicted_sample
from tests.networks.test_invertible_unet import small

T = torch.tensor([0, 10, 300, 700, 998])


@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
def test_whatever_is_predicted_the_image_s_error_has_the_same_weight(prediction_type):
    scheduler = DDPMScheduler(1000, "cosine", prediction_type=prediction_type)
    weights = min_snr_weights(scheduler, T, 5.0)
    x_t, output = torch.randn(2, len(T), 50, dtype=torch.float64)
    error = 1e-2 * torch.randn(len(T), 50, dtype=torch.float64)
    for i, t in enumerate(T):
        of_image = [predicted_sample(scheduler, o, int(t), x_t[i]) for o in (output[i] + error[i], output[i])]
        snr = scheduler.alphas_cumprod[t] / (1 - scheduler.alphas_cumprod[t])
        expected = min(float(snr), 5.0) * (of_image[0] - of_image[1]).square().mean()
        torch.testing.assert_close(weights[i].double() * error[i].square().mean(), expected, rtol=1e-4, atol=0)


def test_noise_is_never_weighted_more_than_once():
    weights = min_snr_weights(DDPMScheduler(1000, "cosine"), T, 5.0)
    assert weights[-1] == 1
    assert (weights <= 1).all()
    assert weights[0] < 1e-2


def test_at_the_last_timestep_of_a_rescaled_schedule_the_weight_is_a_number():
    scheduler = StridedDDPMScheduler(1000, "cosine", "v_prediction", zero_terminal_snr=True)
    assert min_snr_weights(scheduler, torch.tensor([999]), 5.0).tolist() == [0.0]


def test_the_loss_weighs_each_of_a_batch_by_its_timestep():
    scheduler = DDPMScheduler(1000, "cosine", prediction_type="v_prediction")
    loss = InvertibleDiffusionLoss(small(), min_snr_gamma=5.0, scheduler=scheduler)
    prediction, target = torch.randn(2, 2, 2, 8, 8, 8)
    t = torch.tensor([40, 900])
    errors = (prediction - target).square().flatten(1).mean(1)
    expected = (min_snr_weights(scheduler, t, 5.0) * errors).mean()
    torch.testing.assert_close(loss(prediction, target, timesteps=t), expected)
    with pytest.raises(ValueError, match=r"min_snr_gamma=5\.0 needs the timesteps"):
        loss(prediction, target)


def test_a_gamma_that_means_nothing_is_refused():
    with pytest.raises(ValueError, match="a number above 0, such as 5, and give the scheduler"):
        InvertibleDiffusionLoss(small(), min_snr_gamma=5.0)
    with pytest.raises(ValueError, match="min_snr_gamma=0"):
        InvertibleDiffusionLoss(small(), min_snr_gamma=0, scheduler=DDPMScheduler(10))
