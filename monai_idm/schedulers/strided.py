r"""Base of the few-step samplers: their timesteps, and steps that end at the noise level of the next timestep.

MONAI's DDIMScheduler takes its timesteps from a linspace (999, 888, ...) but steps by ``T // n`` (to 899), so that the
network is given a noise level that the sample does not have; its DDPMScheduler always steps to t - 1. Here the
timesteps are trailing (T - 1 comes first, as sampling starts from pure noise) and a step ends exactly at the next one.

With zero terminal SNR the last timestep is pure noise, as is the start of sampling,

.. math:: \sqrt{\bar\alpha_t} \leftarrow (\sqrt{\bar\alpha_t} - \sqrt{\bar\alpha_T})
    \frac{\sqrt{\bar\alpha_1}}{\sqrt{\bar\alpha_1} - \sqrt{\bar\alpha_T}}.

For flow matching, :math:`x_t` divided by :math:`\sqrt{\alpha_t^2 + \sigma_t^2}` is the noisy image of a diffusion model
with :math:`\bar\alpha_t = \alpha_t^2 / (\alpha_t^2 + \sigma_t^2)`, so that every sampler also samples flows: DDIM then
takes Euler steps, as MONAI's RFlowScheduler does. Timesteps run from T, which is pure noise, to 1.

Larger images show more of their structure at the same noise level, so noise has to reach further. A shift r multiplies
all :math:`\sigma_t / \alpha_t`; for a flow this turns t / T into :math:`r (t/T) / (1 + (r - 1) (t/T))`.

Timesteps at equal distances spend few steps on little noise, where the texture of an image is decided: samples in few
steps are too smooth. Those of Karras et al. are the first whose ratio of noise to image, :math:`\sigma_t / \alpha_t`,
is at least

.. math:: \Big(r_1^{1/7} + \tfrac{i}{n - 1} (r_n^{1/7} - r_1^{1/7})\Big)^7, \qquad i = 0, \dots, n - 1,

with :math:`r_1` = 80 times the shift and :math:`r_n` = 0.02, for images from -1 to 1. The last timestep always comes
first.

Source: trailing timesteps and algorithm 1: Lin et al. 2024, arXiv:2305.08891; shift: Hoogeboom et al. 2023,
arXiv:2301.11093, for flows Esser et al. 2024, arXiv:2403.03206; ratios: eq. 5 of Karras et al. 2022, arXiv:2206.00364.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Self

import torch
from monai.networks.schedulers.scheduler import NoiseSchedules, Scheduler
from monai.utils import unsqueeze_right
from torch import Tensor

from monai_idm.noise import mixed_seed
from monai_idm.schedulers.prediction import check_prediction_type, is_flow, noise_levels, predicted_sample

__all__ = ["StridedScheduler", "noise_shift_of"]

_SPACINGS = ("trailing", "karras")
_RHO, _MOST_NOISE, _LEAST_NOISE = 7, 80.0, 0.02
_UNSHIFTED = 32**3  # voxels


def noise_shift_of(spatial_size: Sequence[int]) -> float:
    """The usual ``noise_shift`` of a flow: the more voxels share a structure, the more noise is needed to hide it.

    It is the cube root of the number of voxels over that of 32^3, as in MONAI's ``RFlowScheduler``, but at least 1.

    Args:
        spatial_size: Voxels per axis of a volume.
    """
    return max(1.0, (math.prod(spatial_size) / _UNSHIFTED) ** (1 / 3))


class StridedScheduler(Scheduler):
    """The timesteps of sampling and the predicted sample; subclasses add ``step``.

    Args:
        num_train_timesteps: Number of timesteps T, as in training.
        schedule: Name in MONAI's ``NoiseSchedules``, as in training; a flow has its own.
        prediction_type: ``"epsilon"``, ``"sample"``, ``"v_prediction"`` or ``"flow"``, as in training.
        clip_sample: Clip the predicted sample to the data range.
        clip_sample_min: Lower end of the range.
        clip_sample_max: Upper end of the range.
        num_inference_steps: Number of steps, as in ``set_timesteps``; None: all T.
        zero_terminal_snr: Rescale the schedule so that the last timestep is pure noise, as in training; that of a flow
            always is.
        noise_shift: Factor r of the ratio of noise to image at every timestep, as in training; 1 leaves it as it is.
        timestep_spacing: ``"trailing"``: the timesteps of fewer steps than T have equal distances; ``"karras"``: they
            are denser where there is little noise.
        schedule_args: Arguments of the schedule.
    Raises:
        ValueError: If T < 1, if schedule, prediction type or spacing is unknown, if ``noise_shift`` is not above 0, or
            if the prediction type is ``"epsilon"`` with ``zero_terminal_snr``: the noise in pure noise carries no
            information about the image.
    """

    _seeds: Sequence[int] | None = None
    _generators: Sequence[torch.Generator] | None = None

    def __init__(
        self,
        num_train_timesteps: int = 1000,
        schedule: str = "linear_beta",
        prediction_type: str = "epsilon",
        clip_sample: bool = True,
        clip_sample_min: float = -1.0,
        clip_sample_max: float = 1.0,
        num_inference_steps: int | None = None,
        zero_terminal_snr: bool = False,
        noise_shift: float = 1.0,
        timestep_spacing: str = "trailing",
        **schedule_args: float,
    ) -> None:
        if not isinstance(num_train_timesteps, int) or num_train_timesteps < 1:
            raise ValueError(f"num_train_timesteps={num_train_timesteps!r}; choose an integer of 1 or more")
        if schedule not in NoiseSchedules:
            raise ValueError(f"schedule={schedule!r} is unknown; choose one of {', '.join(NoiseSchedules.components)}")
        if not noise_shift > 0:
            raise ValueError(f"noise_shift={noise_shift}; choose a factor above 0, such as 1, or 2 for 64^3 voxels")
        if timestep_spacing not in _SPACINGS:
            raise ValueError(f"timestep_spacing={timestep_spacing!r} is unknown; choose {' or '.join(_SPACINGS)}")
        super().__init__(num_train_timesteps, schedule, **schedule_args)
        check_prediction_type(prediction_type)
        self.prediction_type = prediction_type
        if is_flow(self):
            alpha, sigma = noise_levels(self, torch.arange(num_train_timesteps + 1, dtype=torch.float64))
            self._set_levels(alpha.square() / (alpha.square() + sigma.square()))
        elif zero_terminal_snr:
            if prediction_type == "epsilon":
                raise ValueError(
                    "prediction_type='epsilon' with zero_terminal_snr: at the last timestep the noise carries no "
                    "information about the image; choose 'v_prediction' or 'sample'"
                )
            self._rescale()
        if noise_shift != 1 and not is_flow(self):  # training and sampling shift a flow's timesteps instead
            self._shift(noise_shift)
        self.noise_shift = noise_shift
        self.settings = {
            "num_train_timesteps": num_train_timesteps,
            "schedule": schedule,
            "prediction_type": prediction_type,
            "zero_terminal_snr": zero_terminal_snr,
            "noise_shift": noise_shift,
            **schedule_args,
        }
        """The arguments that a trained network depends on; a sampler for it needs the same."""
        self.timestep_spacing = timestep_spacing
        self.clip_sample = clip_sample
        self.clip_sample_values = (clip_sample_min, clip_sample_max)
        self.set_timesteps(num_train_timesteps if num_inference_steps is None else num_inference_steps)

    def set_timesteps(self, num_inference_steps: int, device: str | torch.device | None = None) -> None:
        """Choose the number of steps.

        Args:
            num_inference_steps: n, from 1 to T.
            device: Device of ``timesteps``.
        Raises:
            ValueError: If n is out of range.
        """
        if not 1 <= num_inference_steps <= self.num_train_timesteps:
            raise ValueError(
                f"num_inference_steps={num_inference_steps}; choose 1 to num_train_timesteps={self.num_train_timesteps}"
            )
        self.num_inference_steps = num_inference_steps
        spaced = self._karras if self.timestep_spacing == "karras" else self._trailing
        self.timesteps = spaced(num_inference_steps).to(device)
        self._forget()

    def shifted(self, t: Tensor) -> Tensor:
        """Shift a flow's timesteps, given as parts of T, by ``noise_shift``."""
        return self.noise_shift * t / (1 + (self.noise_shift - 1) * t)

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """x_t of images and noise, ``(B, C, *spatial)``, at timesteps ``(B,)``."""
        if not is_flow(self):
            return super().add_noise(original_samples, noise, timesteps)
        alpha, sigma = (unsqueeze_right(level, noise.ndim) for level in noise_levels(self, timesteps))
        return alpha * original_samples + sigma * noise

    def fresh(self) -> Self:
        """A copy without the memory of earlier steps, such as those of an interrupted sampling."""
        scheduler = copy.copy(self)
        scheduler._forget()
        return scheduler

    def seeded(self, seeds: Sequence[int]) -> Self:
        """A fresh copy whose steps, if they add noise and get no generator, draw it from each image's seed.

        The noise is drawn on the device of the images: an image is the same in every batch, and, with a sampler that
        adds noise, another one on another kind of device.

        Args:
            seeds: One seed per image of the batch.
        """
        scheduler = self.fresh()
        # not the seed itself, which the starting noise is drawn from: no step must repeat that noise
        scheduler._seeds, scheduler._generators = [mixed_seed("steps", seed) for seed in seeds], None
        return scheduler

    def _trailing(self, n: int) -> Tensor:
        stride = self.num_train_timesteps / n
        ends = self.num_train_timesteps - stride * torch.arange(n, dtype=torch.float64)
        if not is_flow(self):
            return ends.round().long() - 1
        ends = self.shifted(ends / self.num_train_timesteps) * self.num_train_timesteps
        return ends.round().long().clamp(min=1).unique_consecutive()

    def _karras(self, n: int) -> Tensor:
        first = 1 if is_flow(self) else 0  # a flow's timestep 0 is the image
        alpha, sigma = noise_levels(self, torch.arange(first, first + self.num_train_timesteps))
        ratios = sigma.double() / alpha.double()
        low, high = self.clip_sample_values
        ends = [_MOST_NOISE * self.noise_shift, _LEAST_NOISE]
        most, least = ((end * (high - low) / 2) ** (1 / _RHO) for end in ends)
        wanted = torch.linspace(most, least, n, dtype=torch.float64) ** _RHO
        places = torch.searchsorted(ratios, wanted).clamp(max=self.num_train_timesteps - 1)
        places[0] = self.num_train_timesteps - 1
        number = torch.arange(n)
        # n different ones: each at least one below that before it, and room for those that follow
        places = torch.maximum((places + number).cummin(0).values - number, n - 1 - number)
        return places + first

    def _forget(self) -> None:
        """Clear the memory of earlier steps; samplers that have one override this."""

    def _rescale(self) -> None:
        root = torch.cumprod(1 - self.betas.double(), 0).sqrt()
        root = (root - root[-1]) * root[0] / (root[0] - root[-1])
        self._set_levels(root.square())

    def _shift(self, factor: float) -> None:
        alpha_bar = torch.cumprod(1 - self.betas.double(), 0)
        self._set_levels(alpha_bar / (alpha_bar + factor**2 * (1 - alpha_bar)))

    def _set_levels(self, alpha_bar: Tensor) -> None:
        alphas = torch.cat([alpha_bar[:1], alpha_bar[1:] / alpha_bar[:-1]])
        self.betas, self.alphas, self.alphas_cumprod = (x.to(self.betas) for x in (1 - alphas, alphas, alpha_bar))

    def _next(self, t: int) -> int | None:
        """The timestep at which a step from t ends; None: it ends without noise."""
        below = self.timesteps[self.timesteps < t]
        return int(below.max()) if len(below) else None

    def _alpha_bar(self, t: int | None) -> Tensor:
        return self.one.to(self.alphas_cumprod) if t is None else self.alphas_cumprod[t]

    def _as_diffusion(self, sample: Tensor, t: int) -> Tensor:
        """x_t of a diffusion model from that of a flow."""
        return sample / torch.hypot(*noise_levels(self, t)) if is_flow(self) else sample

    def _as_trained(self, sample: Tensor, t: int | None) -> Tensor:
        """The reverse of :meth:`_as_diffusion`."""
        return sample if t is None or not is_flow(self) else sample * torch.hypot(*noise_levels(self, t))

    def _towards(self, s: int | None, sample: Tensor, t: int, x0: Tensor) -> Tensor:
        """DDIM's step without noise of its own, from x_t to s, with x0 as the predicted image."""
        alpha_bar, alpha_bar_next = self._alpha_bar(t), self._alpha_bar(s)
        shrink = ((1 - alpha_bar_next) / (1 - alpha_bar)).sqrt()
        image = (alpha_bar_next.sqrt() - shrink * alpha_bar.sqrt()) * x0
        return self._as_trained(image + shrink * self._as_diffusion(sample, t), s)

    def _predicted_sample(self, model_output: Tensor, t: int, sample: Tensor) -> Tensor:
        x0 = predicted_sample(self, model_output, t, sample)
        return x0.clamp(*self.clip_sample_values) if self.clip_sample else x0

    def _noise(self, sample: Tensor, generator: torch.Generator | Sequence[torch.Generator] | None) -> Tensor:
        if generator is None and self._seeds is not None:
            if self._generators is None:
                self._generators = [torch.Generator(sample.device).manual_seed(seed) for seed in self._seeds]
            generator = self._generators
        if generator is None:
            return torch.randn_like(sample)
        if isinstance(generator, torch.Generator):
            return torch.randn(sample.shape, generator=generator, device=generator.device).to(sample)
        if len(generator) != len(sample):
            raise ValueError(f"{len(generator)} generators for a batch of {len(sample)}; give one per image")
        return torch.stack([torch.randn(sample.shape[1:], generator=g, device=g.device) for g in generator]).to(sample)
