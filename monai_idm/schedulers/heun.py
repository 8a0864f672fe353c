r"""Heun's method: each step is taken twice, the second time with the mean of the slopes at its two ends.

With :math:`\cos\varphi = \sqrt{\bar\alpha}` the sampling ODE is :math:`dx / d\varphi = v`, the velocity. A step is

.. math::
    \tilde x_s = \mathrm{DDIM}(x_t), \qquad
    x_s = x_t - \tfrac{1}{2} (\varphi_t - \varphi_s) \, (v(x_t, t) + v(\tilde x_s, s)).

The last step, to :math:`\varphi = 0`, where nothing is left to predict, is DDIM's. The source integrates over the
noise level, which is infinite where sampling from pure noise starts; the angle is finite.

Source: algorithm 1 of Karras et al. 2022, arXiv:2206.00364.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from monai_idm.schedulers.strided import StridedScheduler

__all__ = ["StridedHeunScheduler"]


class StridedHeunScheduler(StridedScheduler):
    """Heun's second-order method with trailing timesteps: n steps need 2n - 1 passes of the network.

    ``timesteps`` holds every timestep but the first twice. A step is stored until the next one, at its end, corrects
    it, so an object serves only one sampling run at a time. Arguments as in :class:`StridedScheduler`.
    """

    _start: tuple[int, Tensor, Tensor] | None = None  # t, x_t and velocity of the step to be corrected

    def set_timesteps(self, num_inference_steps: int, device: str | torch.device | None = None) -> None:
        """Choose the number of steps n, from 1 to T; the network is called 2n - 1 times. Errors as in the base."""
        super().set_timesteps(num_inference_steps, device)
        self.timesteps = torch.cat([self.timesteps[:1], self.timesteps[1:].repeat_interleave(2)])

    def step(self, model_output: Tensor, timestep: int | Tensor, sample: Tensor) -> tuple[Tensor, Tensor]:
        """Step to the next lower one of ``timesteps``; or, if a step has just ended at t, repeat that step, corrected.

        Args:
            model_output: Output of the network at x_t, ``(B, C, *spatial)``.
            timestep: Timestep t of ``sample``; it need not be one of ``timesteps``.
            sample: x_t.
        Returns:
            The sample at the noise level where the step ends, and the predicted noiseless sample.
        """
        t = int(timestep)
        s = self._next(t)
        alpha_bar, alpha_bar_next = self._alpha_bar(t), self._alpha_bar(s)
        x0 = self._predicted_sample(model_output, t, sample)
        sample = self._as_diffusion(sample, t)
        noise = (sample - alpha_bar.sqrt() * x0) / (1 - alpha_bar).sqrt()
        velocity = alpha_bar.sqrt() * noise - (1 - alpha_bar).sqrt() * x0
        if self._start is not None and self._next(self._start[0]) == t:
            start, x_start, v_start = self._start
            self._start = None
            corrected = x_start - (self._angle(start) - self._angle(t)) * (v_start + velocity) / 2
            return self._as_trained(corrected, t), x0
        self._start = None if s is None else (t, sample, velocity)
        return self._as_trained(alpha_bar_next.sqrt() * x0 + (1 - alpha_bar_next).sqrt() * noise, s), x0

    def _forget(self) -> None:
        self._start = None

    def _angle(self, t: int) -> float:
        return math.acos(math.sqrt(float(self.alphas_cumprod[t])))
