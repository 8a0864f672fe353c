r"""DDIM with correct steps, however few there are.

.. math:: x_s = \sqrt{\bar\alpha_s}\, \hat x_0 + \sqrt{1 - \bar\alpha_s - \sigma^2}\, \hat\epsilon + \sigma z

Source: eqs. 12 and 16 of Song et al. 2021, arXiv:2010.02502.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from monai_idm.schedulers.prediction import predicted_noise
from monai_idm.schedulers.strided import StridedScheduler

__all__ = ["StridedDDIMScheduler"]


class StridedDDIMScheduler(StridedScheduler):
    """DDIM with trailing timesteps; arguments as in :class:`StridedScheduler`."""

    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        eta: float = 0.0,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Step from the noise level of ``timestep`` to that of the next lower one of ``timesteps``.

        Args:
            model_output: Output of the network at x_t, ``(B, C, *spatial)``.
            timestep: Timestep t of ``sample``; it need not be one of ``timesteps``.
            sample: x_t.
            eta: 0 is deterministic, 1 has DDPM's variance.
            generator: Generator of the noise if eta > 0; a sequence has one per image of the batch.
        Returns:
            The sample at the next noise level, and the predicted noiseless sample.
        """
        t = int(timestep)
        s = self._next(t)
        alpha_bar, alpha_bar_next = self._alpha_bar(t), self._alpha_bar(s)
        x0 = self._predicted_sample(model_output, t, sample)
        noise = predicted_noise(self, model_output, t, sample)
        variance = eta**2 * (1 - alpha_bar_next) / (1 - alpha_bar) * (1 - alpha_bar / alpha_bar_next)
        direction = (1 - alpha_bar_next - variance).clamp(min=0).sqrt() * noise
        following = alpha_bar_next.sqrt() * x0 + direction
        if eta > 0:
            following = following + variance.sqrt() * self._noise(sample, generator)
        return self._as_trained(following, s), x0
