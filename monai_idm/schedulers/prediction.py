"""Converts a network's output between its possible meanings: noise, noiseless sample, or the velocity between them."""

from __future__ import annotations

from monai.networks.schedulers.scheduler import Scheduler
from torch import Tensor

__all__ = ["check_prediction_type", "predicted_noise", "predicted_sample", "prediction_target"]

_PREDICTION_TYPES = ("epsilon", "sample", "v_prediction")


def check_prediction_type(prediction_type: str) -> None:
    """Refuse an unknown prediction type.

    Args:
        prediction_type: ``"epsilon"``, ``"sample"`` or ``"v_prediction"``.
    Raises:
        ValueError: If it is not one of these.
    """
    if prediction_type not in _PREDICTION_TYPES:
        raise ValueError(
            f"prediction_type={prediction_type!r} is unknown; choose one of {', '.join(_PREDICTION_TYPES)}"
        )


def prediction_target(scheduler: Scheduler, sample: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """The output that a network is trained to predict.

    Args:
        scheduler: A scheduler of MONAI or of this package with a ``prediction_type``.
        sample: The noiseless images, ``(B, C, *spatial)``.
        noise: The noise that is added to them, ``(B, C, *spatial)``.
        timesteps: Timesteps at which it is added, ``(B,)``.
    """
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
    alpha_bar = scheduler.alphas_cumprod[timestep]
    if scheduler.prediction_type == "sample":
        return model_output
    if scheduler.prediction_type == "v_prediction":
        return alpha_bar.sqrt() * sample - (1 - alpha_bar).sqrt() * model_output
    return (sample - (1 - alpha_bar).sqrt() * model_output) / alpha_bar.sqrt()


def predicted_noise(scheduler: Scheduler, model_output: Tensor, timestep: int, sample: Tensor) -> Tensor:
    """The noise that a network's output stands for; arguments as in :func:`predicted_sample`."""
    alpha_bar = scheduler.alphas_cumprod[timestep]
    if scheduler.prediction_type == "sample":
        return (sample - alpha_bar.sqrt() * model_output) / (1 - alpha_bar).sqrt()
    if scheduler.prediction_type == "v_prediction":
        return alpha_bar.sqrt() * model_output + (1 - alpha_bar).sqrt() * sample
    return model_output
