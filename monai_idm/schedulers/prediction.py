r"""What a network predicts, and what its prediction says of the noiseless image and of the noise.

The noisy image of timestep t is

.. math:: x_t = \alpha_t x_0 + \sigma_t \epsilon .

In a diffusion model :math:`\alpha_t = \sqrt{\bar\alpha_t}` and :math:`\sigma_t = \sqrt{1 - \bar\alpha_t}`. In
flow matching (rectified flow) the image moves along a straight line, :math:`\sigma_t = t / T = 1 - \alpha_t`, and the
network predicts its direction, :math:`x_0 - \epsilon`.

Source: flow matching after Liu et al. 2022, arXiv:2209.03003; sign and timesteps are those of MONAI's RFlowScheduler.
"""

from __future__ import annotations

from typing import Any

import torch
from monai.networks.schedulers import RFlowScheduler
from monai.networks.schedulers.scheduler import Scheduler
from torch import Tensor

__all__ = [
    "check_prediction_type",
    "is_flow",
    "noise_levels",
    "predicted_noise",
    "predicted_sample",
    "prediction_target",
]

_PREDICTION_TYPES = ("epsilon", "sample", "v_prediction", "flow")


def check_prediction_type(prediction_type: str) -> None:
    """Refuse an unknown prediction type.

    Args:
        prediction_type: ``"epsilon"``, ``"sample"``, ``"v_prediction"`` or ``"flow"``.
    Raises:
        ValueError: If it is not one of these.
    """
    if prediction_type not in _PREDICTION_TYPES:
        raise ValueError(
            f"prediction_type={prediction_type!r} is unknown; choose one of {', '.join(_PREDICTION_TYPES)}"
        )


def is_flow(scheduler: Any) -> bool:
    """Whether a scheduler is one for flow matching: MONAI's RFlowScheduler, or one of this package for ``"flow"``.

    Args:
        scheduler: A scheduler of MONAI or of this package.
    """
    return isinstance(scheduler, RFlowScheduler) or getattr(scheduler, "prediction_type", None) == "flow"


def noise_levels(scheduler: Scheduler, timesteps: Tensor | int) -> tuple[Tensor, Tensor]:
    """The factors alpha and sigma of image and noise at timesteps.

    Args:
        scheduler: A scheduler of MONAI or of this package.
        timesteps: One timestep, or a tensor of them.
    Returns:
        Two tensors in the shape of the timesteps.
    """
    if is_flow(scheduler):
        sigma = torch.as_tensor(timesteps) / scheduler.num_train_timesteps
        return 1 - sigma, sigma
    alpha_bar = scheduler.alphas_cumprod[timesteps]
    return alpha_bar.sqrt(), (1 - alpha_bar).sqrt()


def prediction_target(scheduler: Scheduler, sample: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """The output that a network is trained to predict.

    Args:
        scheduler: A scheduler of MONAI or of this package with a ``prediction_type``.
        sample: The noiseless images, ``(B, C, *spatial)``.
        noise: The noise that is added to them, ``(B, C, *spatial)``.
        timesteps: Timesteps at which it is added, ``(B,)``.
    """
    if is_flow(scheduler):
        return sample - noise
    if scheduler.prediction_type == "sample":
        return sample
    if scheduler.prediction_type == "v_prediction":
        return scheduler.get_velocity(sample, noise, timesteps)
    return noise


def predicted_sample(scheduler: Scheduler, model_output: Tensor, timestep: int, sample: Tensor) -> Tensor:
    """The noiseless image that a network's output stands for; not clipped.

    Args:
        scheduler: A scheduler of MONAI or of this package with a ``prediction_type``.
        model_output: Output of the network at x_t, ``(B, C, *spatial)``.
        timestep: Timestep t of ``sample``.
        sample: x_t.
    """
    alpha, sigma = noise_levels(scheduler, timestep)
    if is_flow(scheduler):
        return sample + sigma * model_output
    if scheduler.prediction_type == "sample":
        return model_output
    if scheduler.prediction_type == "v_prediction":
        return alpha * sample - sigma * model_output
    return (sample - sigma * model_output) / alpha


def predicted_noise(scheduler: Scheduler, model_output: Tensor, timestep: int, sample: Tensor) -> Tensor:
    """The noise that a network's output stands for; arguments as in :func:`predicted_sample`."""
    alpha, sigma = noise_levels(scheduler, timestep)
    if is_flow(scheduler):
        return sample - alpha * model_output
    if scheduler.prediction_type == "sample":
        return (sample - alpha * model_output) / sigma
    if scheduler.prediction_type == "v_prediction":
        return alpha * model_output + sigma * sample
    return model_output
