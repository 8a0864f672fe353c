r"""Few-step samplers whose steps end at the noise levels they aim at.

MONAI's DDIMScheduler takes its timesteps from a linspace (999, 888, ...) but steps by ``T // n`` (to 899), so that the
network sees a noise level the sample does not have; its DDPMScheduler always steps to t - 1. Here the timesteps are
trailing (T - 1 comes first, as sampling starts from pure noise) and a step ends exactly at the next of them.
"""

from __future__ import annotations

import torch
from monai.networks.schedulers.scheduler import Scheduler
from torch import Tensor

from monai_idm.schedulers.prediction import check_prediction_type, predicted_noise, predicted_sample

__all__ = ["StridedDDIMScheduler"]


class StridedDDIMScheduler(Scheduler):
    r"""DDIM with trailing timesteps.

    .. math:: x_s = \sqrt{\bar\alpha_s}\, \hat x_0 + \sqrt{1 - \bar\alpha_s - \sigma^2}\, \hat\epsilon + \sigma z

    Args:
        num_train_timesteps: T, as in training.
        schedule: Name in MONAI's ``NoiseSchedules``, as in training.
        prediction_type: ``"epsilon"``, ``"sample"`` or ``"v_prediction"``, as in training.
        clip_sample: Clip the predicted sample to the data range.
        clip_sample_min: Lower end of the range.
        clip_sample_max: Upper end of the range.
        num_inference_steps: As ``set_timesteps``, for configs; None: every step.
        schedule_args: Arguments of the schedule.
    Source: eqs. 12 and 16 of Song et al. 2021, arXiv:2010.02502; trailing timesteps: Lin et al. 2024,
        arXiv:2305.08891.
    """

    def __init__(
        self,
        num_train_timesteps: int = 1000,
        schedule: str = "linear_beta",
        prediction_type: str = "epsilon",
        clip_sample: bool = True,
        clip_sample_min: float = -1.0,
        clip_sample_max: float = 1.0,
        num_inference_steps: int | None = None,
        **schedule_args: float,
    ) -> None:
        super().__init__(num_train_timesteps, schedule, **schedule_args)
        check_prediction_type(prediction_type)
        self.prediction_type = prediction_type
        self.clip_sample = clip_sample
        self.clip_sample_values = (clip_sample_min, clip_sample_max)
        self.set_timesteps(num_train_timesteps if num_inference_steps is None else num_inference_steps)

    def set_timesteps(self, num_inference_steps: int, device: str | torch.device | None = None) -> None:
        """Choose the number of steps.

        Args:
            num_inference_steps: n, from 1 to T.
            device: Where ``timesteps`` shall be.
        Raises:
            ValueError: If n is out of range.
        """
        if not 1 <= num_inference_steps <= self.num_train_timesteps:
            raise ValueError(
                f"num_inference_steps={num_inference_steps}; choose 1 to num_train_timesteps={self.num_train_timesteps}"
            )
        self.num_inference_steps = num_inference_steps
        stride = self.num_train_timesteps / num_inference_steps
        ends = self.num_train_timesteps - stride * torch.arange(num_inference_steps, dtype=torch.float64)
        self.timesteps = (ends.round().long() - 1).to(device)

    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        eta: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        """From the noise level of ``timestep`` to that of the next of ``timesteps`` below it.

        Args:
            model_output: What the network predicts, ``(B, C, *spatial)``.
            timestep: t of ``sample``; it need not be one of ``timesteps``.
            sample: x_t.
            eta: 0 is deterministic, 1 has DDPM's variance.
            generator: Of the noise, where eta > 0.
        Returns:
            The sample at the next noise level, and the predicted noiseless one.
        """
        t = int(timestep)
        below = self.timesteps[self.timesteps < t]
        alpha_bar = self.alphas_cumprod[t]
        alpha_bar_next = self.alphas_cumprod[below.max()] if len(below) else self.one.to(alpha_bar)

        x0 = predicted_sample(self, model_output, t, sample)
        noise = predicted_noise(self, model_output, t, sample)
        if self.clip_sample:
            x0 = x0.clamp(*self.clip_sample_values)
        variance = eta**2 * (1 - alpha_bar_next) / (1 - alpha_bar) * (1 - alpha_bar / alpha_bar_next)
        direction = (1 - alpha_bar_next - variance).clamp(min=0).sqrt() * noise
        following = alpha_bar_next.sqrt() * x0 + direction
        if eta > 0:
            z = torch.randn(sample.shape, generator=generator, dtype=sample.dtype, device=sample.device)
            following = following + variance.sqrt() * z
        return following, x0
