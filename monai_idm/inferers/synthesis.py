r"""Synthesis of missing contrasts: those that are there stand in the place of their noisy versions.

.. math:: U(m \odot c + (1 - m) \odot x_t, t, m)

The network has a channel for each contrast :math:`c_i`; :math:`m_i = 1` says that it is known. Which are known is told
the network by a class, of which there are :math:`2^M`: so it has the channels of a network that generates all of them,
and any may be missing.

Source: generation under known parts, as Saharia et al. 2022, arXiv:2111.05826, fill in parts of an image.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from monai.networks.schedulers.scheduler import Scheduler
from torch import Tensor

from monai_idm.inferers.diffusion import InvertibleDiffusionInferer
from monai_idm.inferers.drawing import DrawingInferer

__all__ = ["DiffusionSynthesisInferer", "SynthesisTrainingInferer"]


class SynthesisTrainingInferer(InvertibleDiffusionInferer):
    """The training pass: only what is unknown is noised and predicted. Arguments as of the base.

    ``condition``, with ``mode="concat"``, are the contrasts and then, as many channels of 0 or 1, which are known.
    """

    def __call__(self, inputs: Tensor, diffusion_model: Any, *args: Any, **kwargs: Any) -> Tensor:  # type: ignore[override]
        return super().__call__(inputs, _told(diffusion_model), *args, **kwargs)


class DiffusionSynthesisInferer(DrawingInferer):
    """``(inputs, network) -> contrasts``, for MONAI's evaluators, MONAI Label and Deploy.

    The mean of several draws has less error, and less texture, than one.

    Args:
        scheduler: Of sampling; its steps are taken as they are set.
        num_contrasts: M, channels of the network.
        kwargs: ``num_draws``, ``window`` and ``seed`` of DrawingInferer.
    Raises:
        ValueError: As DrawingInferer; when called, if the channels do not fit.
    """

    def __init__(self, scheduler: Scheduler, num_contrasts: int, **kwargs: Any) -> None:
        super().__init__(scheduler, num_contrasts, **kwargs)

    def draws(self, inputs: Tensor, network: Callable) -> Tensor:
        """Every draw; a call gives their mean.

        Args:
            inputs: The contrasts, M channels, and which are known, M channels of 0 or 1: ``(B, 2 M, *spatial)``.
            network: ``net(x, timesteps, class_labels=...)`` of M channels in and out.
        Returns:
            All contrasts, ``(B, N, M, *spatial)``, the known ones as they came.
        """
        condition = inputs.as_subclass(Tensor)
        if condition.shape[1] != 2 * self.num_channels:
            raise ValueError(
                f"an input of shape {tuple(condition.shape)} for {self.num_channels} contrasts; it must have "
                f"{2 * self.num_channels} channels, the contrasts and which are known: use ChooseKnownd"
            )
        images, known = condition.chunk(2, 1)
        drawn = self._drawn(condition, _told(network))
        return torch.where(known[:, None] > 0.5, images[:, None], drawn)


def _told(network: Callable) -> Callable:
    """The network for noisy contrasts, contrasts, and which of them are known, as channels of one input."""

    def predict(x: Tensor, timesteps: Tensor, context: None = None) -> Tensor:
        noisy, images, known = x.chunk(3, 1)
        bits = known.flatten(2).amax(2) > 0.5  # amax: a window's margin is 0
        which = (bits * 2 ** torch.arange(bits.shape[1], device=bits.device)).sum(1)
        predicted = network(torch.where(known > 0.5, images, noisy), timesteps=timesteps, class_labels=which)
        return predicted * (1 - known)  # what is known need not be predicted

    return predict
