r"""DPM-Solver++ (2M): each step also uses the previous step's prediction, without another pass of the network.

With :math:`\lambda = \log(\sqrt{\bar\alpha} / \sqrt{1 - \bar\alpha})`, a step of length
:math:`h = \lambda_s - \lambda_t` after one of length :math:`h'` is

.. math::
    x_s = \frac{\sqrt{1 - \bar\alpha_s}}{\sqrt{1 - \bar\alpha_t}} x_t + \sqrt{\bar\alpha_s}\, (1 - e^{-h}) D, \qquad
    D = \hat x_0 + \frac{h}{2 h'} (\hat x_0 - \hat x_0').

The first and the last step are of first order (:math:`D = \hat x_0`): the first has no previous prediction, and the
last ends without noise, where :math:`h` is infinite.

Source: algorithm 2 of Lu et al. 2022, arXiv:2211.01095.
"""

from __future__ import annotations

import torch
from torch import Tensor

from monai_idm.schedulers.strided import StridedScheduler

__all__ = ["DPMSolverPlusPlusScheduler"]


class DPMSolverPlusPlusScheduler(StridedScheduler):
    """DPM-Solver++ of second order, multistep and deterministic.

    A step stores its prediction for the next one, so an object serves only one sampling run at a time. Arguments as
    in :class:`StridedScheduler`.
    """

    _last: tuple[int | None, Tensor, Tensor] | None = None  # where the last step ended, its x0 and its length

    def step(self, model_output: Tensor, timestep: int | Tensor, sample: Tensor) -> tuple[Tensor, Tensor]:
        """Step from the noise level of ``timestep`` to that of the next lower one of ``timesteps``.

        Args:
            model_output: Output of the network at x_t, ``(B, C, *spatial)``.
            timestep: Timestep t of ``sample``; it need not be one of ``timesteps``.
            sample: x_t.
        Returns:
            The sample at the next noise level, and the predicted noiseless sample.
        """
        t = int(timestep)
        s = self._next(t)
        x0 = self._predicted_sample(model_output, t, sample)
        last, self._last = self._last, None
        if s is None:
            return x0, x0
        h = (torch.logit(self._alpha_bar(s).double()) - torch.logit(self._alpha_bar(t).double())) / 2
        self._last = (s, x0, h)
        direction = x0
        if last is not None and last[0] == t:
            direction = x0 + (h / (2 * last[2])).to(x0.dtype) * (x0 - last[1])
        return self._towards(s, sample, t, direction), x0

    def _forget(self) -> None:
        self._last = None
