r"""Draws under a condition, which the network sees beside what it denoises.

.. math:: x_T \sim N(0, 1), \qquad x_s = \mathrm{step}(U([x_t, c], t), x_t)
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from monai.inferers import DiffusionInferer, Inferer, SlidingWindowInferer
from monai.networks.schedulers.scheduler import Scheduler
from torch import Tensor

from monai_idm.noise import seeded_noise
from monai_idm.schedulers import StridedScheduler, check_sampler, fresh_sampler

__all__ = ["DrawingInferer"]


class DrawingInferer(Inferer):
    """``(inputs, network) -> prediction``: draws several times and takes the mean.

    What the inputs are, and what the draws stand for, a subclass says in ``draws``.

    Args:
        scheduler: Scheduler to sample with; its steps are taken as they are set.
        num_channels: C, of what is drawn.
        num_draws: N.
        window: MONAI's SlidingWindowInferer, which cuts the volume into patches and blends what the network makes of
            them, at every step; None: the network sees the whole volume.
        seed: Draw i of every case starts from the noise of ``seed + i``, whatever else draws numbers.
    Raises:
        ValueError: If a number is below 1, or the scheduler cannot be sampled with.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        num_channels: int,
        num_draws: int = 1,
        window: SlidingWindowInferer | None = None,
        seed: int = 0,
    ) -> None:
        if num_channels < 1 or num_draws < 1:
            raise ValueError(f"{num_draws} draws of {num_channels} channels; choose 1 or more of each")
        check_sampler(scheduler)
        self.scheduler = scheduler
        self.num_channels = num_channels
        self.num_draws = num_draws
        self.window = window
        self.seed = seed

    def __call__(self, inputs: Tensor, network: Callable, *args: Any, **kwargs: Any) -> Tensor:
        return self.combined(self.draws(inputs, network))

    @abstractmethod
    def draws(self, inputs: Tensor, network: Callable) -> Tensor:
        """Every draw, ``(B, N, C, *spatial)``; arguments as of a call."""

    def combined(self, draws: Tensor) -> Tensor:
        """What a call makes of the draws: their mean, ``(B, C, *spatial)``."""
        return draws.mean(1)

    @torch.no_grad()
    def _drawn(self, condition: Tensor, network: Callable) -> Tensor:
        """Sample several times under the same condition.

        Args:
            condition: ``(B, K, *spatial)``.
            network: ``net(x, timesteps)`` of C + K channels in and C out.
        Returns:
            ``(B, N, C, *spatial)``, in the range that the network was trained in.
        """
        inferer = DiffusionInferer(self.scheduler)
        predict = network if self.window is None else partial(self.window, network=network)
        drawn = []
        for seed in range(self.seed, self.seed + self.num_draws):
            noise = seeded_noise((self.num_channels, *condition.shape[2:]), seed).to(condition)
            noise = noise.expand(len(condition), *noise.shape)  # one for all cases: the same in every batch
            way = fresh_sampler(self.scheduler)
            if isinstance(way, StridedScheduler):
                way = way.seeded([seed] * len(condition))
            image = inferer.sample(noise, predict, way, conditioning=condition, mode="concat", verbose=False)  # type: ignore[arg-type]
            assert isinstance(image, Tensor)  # and not, as on request, the steps to it
            drawn.append(image)
        return torch.stack(drawn, 1)
