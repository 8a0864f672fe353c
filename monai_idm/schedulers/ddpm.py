r"""DDPM with correct steps, however few there are.

With :math:`\beta = 1 - \bar\alpha_t / \bar\alpha_s`, the noise that a step from t to s removes,

.. math::
    x_s = \frac{\sqrt{\bar\alpha_s}\, \beta}{1 - \bar\alpha_t} \hat x_0
        + \frac{\sqrt{1 - \beta}\, (1 - \bar\alpha_s)}{1 - \bar\alpha_t} x_t + \sigma z, \qquad
    \sigma^2 = \beta\, \frac{1 - \bar\alpha_s}{1 - \bar\alpha_t} \text{ (small) or } \beta \text{ (large)}.

Source: eqs. 6 and 7 of Ho et al. 2020, arXiv:2006.11239, for steps of any length.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from monai_idm.schedulers.strided import StridedScheduler

__all__ = ["StridedDDPMScheduler"]

_VARIANCE_TYPES = ("fixed_small", "fixed_large")


class StridedDDPMScheduler(StridedScheduler):
    """DDPM with trailing timesteps; with all of them it equals MONAI's DDPMScheduler.

    Args:
        args: Arguments of :class:`StridedScheduler`.
        variance_type: Variance of the noise that a step adds, ``"fixed_small"`` or ``"fixed_large"``.
        kwargs: Arguments of :class:`StridedScheduler`.
    Raises:
        ValueError: If the variance type is neither of these; see also StridedScheduler.
    """

    def __init__(self, *args: Any, variance_type: str = "fixed_small", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if variance_type not in _VARIANCE_TYPES:
            raise ValueError(f"variance_type={variance_type!r} is unknown; choose {' or '.join(_VARIANCE_TYPES)}")
        self.variance_type = variance_type

    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Step from the noise level of ``timestep`` to that of the next lower one of ``timesteps``.

        Args:
            model_output: Output of the network at x_t, ``(B, C, *spatial)``.
            timestep: Timestep t of ``sample``; it need not be one of ``timesteps``.
            sample: x_t.
            generator: Generator of the noise; a sequence has one per image of the batch.
        Returns:
            The sample at the next noise level, and the predicted noiseless sample.
        """
        t = int(timestep)
        s = self._next(t)
        x0 = self._predicted_sample(model_output, t, sample)
        if s is None:
            return x0, x0
        alpha_bar, alpha_bar_next = self._alpha_bar(t), self._alpha_bar(s)
        # by a sum of logarithms: 1 minus the ratio would lose half of its digits at low noise
        beta = -torch.expm1(torch.log1p(-self.betas[s + 1 : t + 1].double()).sum()).to(alpha_bar)
        rest = (1 - alpha_bar_next) / (1 - alpha_bar)
        mean = alpha_bar_next.sqrt() * beta / (1 - alpha_bar) * x0 + (1 - beta).sqrt() * rest * self._as_diffusion(
            sample, t
        )
        variance = beta * rest if self.variance_type == "fixed_small" else beta
        return self._as_trained(mean + variance.sqrt() * self._noise(sample, generator), s), x0
