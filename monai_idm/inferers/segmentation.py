r"""Segmentation by diffusion: the mask is denoised, the images and where they lie in the head are the condition.

.. math:: x_T \sim N(0, 1), \qquad x_s = \mathrm{step}(U([x_t, c], t), x_t), \qquad \text{mask} = x_0 > 0

A mask is -1 outside and 1 inside. Other noise gives another mask: the mean over several draws is a better one, and
their variance says where they disagree.

Source: Bieder et al. 2023, arXiv:2303.15288; Wolleb et al. 2021, arXiv:2112.03145.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from monai.networks.schedulers.scheduler import Scheduler
from torch import Tensor

from monai_idm.inferers.drawing import DrawingInferer

__all__ = ["DiffusionSegmentationInferer"]


class DiffusionSegmentationInferer(DrawingInferer):
    """``(inputs, network) -> labels``, for MONAI's evaluators, MONAI Label and Deploy.

    Args:
        scheduler: Of sampling; its steps are taken as they are set.
        num_regions: R, channels of the mask.
        kwargs: ``num_draws``, ``window`` and ``seed`` of DrawingInferer.
    Raises:
        ValueError: As DrawingInferer; when called, if the channels do not fit.
    """

    def __init__(self, scheduler: Scheduler, num_regions: int = 1, **kwargs: Any) -> None:
        super().__init__(scheduler, num_regions, **kwargs)

    def draws(self, inputs: Tensor, network: Callable) -> Tensor:
        """Every drawn mask.

        Args:
            inputs: The condition: images and coordinates, ``(B, C, *spatial)``.
            network: ``net(x, timesteps)`` of R + C channels in and R out.
        Returns:
            ``(B, N, R, *spatial)``, 0 to 1.
        """
        condition = inputs.as_subclass(Tensor)
        expected = getattr(network, "in_channels", None)
        if expected not in (None, self.num_channels + condition.shape[1]):
            raise ValueError(
                f"a network of {expected} channels, for {self.num_channels} of the mask and {condition.shape[1]} of "
                "the condition; were the coordinates (AddCoordinatesd) or a modality forgotten?"
            )
        return ((self._drawn(condition, network) + 1) / 2).clamp(0, 1)

    def combined(self, draws: Tensor) -> Tensor:
        """What a call gives: the regions where the mean mask is inside, 0 or 1, ``(B, R, *spatial)``, float32."""
        return (draws.mean(1) > 0.5).to(torch.float32)
