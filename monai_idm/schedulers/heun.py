r"""Heun's method: each step is taken twice, the second time with the images predicted at its two ends.

DDIM's step from t to s holds the predicted image :math:`\hat x_0` fixed. The second step lets it change linearly with
:math:`\alpha = \sqrt{\bar\alpha}`. With :math:`\sigma = \sqrt{1 - \bar\alpha}` and :math:`r = \alpha / \sigma`,

.. math::
    \tilde x_s = \mathrm{DDIM}(x_t; \hat x_0), \qquad
    x_s = \mathrm{DDIM}(x_t; (1 - w) \, \hat x_0 + w \, \hat x_0(\tilde x_s, s)), \qquad
    w = \frac{1}{\alpha_s - \alpha_t} \Big(\frac{1 / \sigma_s - 1 / \sigma_t}{r_s - r_t} - \alpha_t\Big).

The weight w is 1/2 for short steps, and up to 1 for long ones at little noise. The last step, where nothing is left to
predict, is DDIM's. The mean of the slopes at both ends, which the source takes, leaves the range of the data in steps
that end with less than half of their noise, as those of few steps do; a weighted mean of images cannot. The price:
with twice the steps, the error for a normal distribution falls by a factor of 2.8 to 3.4, where slopes reach 4.

Source: algorithm 1 of Karras et al. 2022, arXiv:2206.00364.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from monai_idm.schedulers.strided import StridedScheduler

__all__ = ["StridedHeunScheduler"]


class StridedHeunScheduler(StridedScheduler):
    """Heun's second-order method: n steps need 2n - 1 passes of the network.

    ``timesteps`` holds every timestep but the first twice. A step is stored until the next one, at its end, corrects
    it, so an object serves only one sampling run at a time. Arguments as in :class:`StridedScheduler`.
    """

    _start: tuple[int, Tensor, Tensor] | None = None  # t, x_t and predicted image of the step to be corrected

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
        x0 = self._predicted_sample(model_output, t, sample)
        if self._start is not None and self._next(self._start[0]) == t:
            start, x_start, x0_start = self._start
            self._start = None
            return self._towards(t, x_start, start, torch.lerp(x0_start, x0, self._weight(start, t))), x0
        self._start = None if s is None else (t, sample, x0)
        return self._towards(s, sample, t, x0), x0

    def _forget(self) -> None:
        self._start = None

    def _weight(self, t: int, s: int) -> float:
        before, after = float(self.alphas_cumprod[t]), float(self.alphas_cumprod[s])
        alpha_t, alpha_s = math.sqrt(before), math.sqrt(after)
        inverse_t, inverse_s = 1 / math.sqrt(1 - before), 1 / math.sqrt(1 - after)
        mean = (inverse_s - inverse_t) / (alpha_s * inverse_s - alpha_t * inverse_t)
        return (mean - alpha_t) / (alpha_s - alpha_t)
