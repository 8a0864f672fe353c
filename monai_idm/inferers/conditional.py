r"""Draws under a condition, which the network sees beside what it denoises.

.. math:: x_T \sim N(0, 1), \qquad x_s = \mathrm{step}(U([x_t, c], t), x_t)
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from monai.inferers import DiffusionInferer, SlidingWindowInferer
from monai.networks.schedulers.scheduler import Scheduler
from torch import Tensor

from monai_idm.noise import seeded_noise
from monai_idm.schedulers import StridedScheduler

__all__ = ["draw_under_condition"]


@torch.no_grad()
def draw_under_condition(
    scheduler: Scheduler,
    condition: Tensor,
    network: Callable,
    channels: int,
    num_draws: int = 1,
    window: SlidingWindowInferer | None = None,
    seed: int = 0,
) -> Tensor:
    """Sample several times under the same condition.

    Args:
        scheduler: Of sampling; its steps are taken as they are set.
        condition: ``(B, C, *spatial)``.
        network: ``net(x, timesteps)`` of ``channels + C`` channels in and ``channels`` out.
        channels: Of what is drawn.
        num_draws: N.
        window: MONAI's SlidingWindowInferer, which cuts the volume into patches and blends what the network makes of
            them, at every step; None: the network sees the whole volume.
        seed: Draw i of every case starts from the noise of ``seed + i``, whatever else draws numbers.
    Returns:
        ``(B, N, channels, *spatial)``, in the range that the network was trained in.
    """
    inferer = DiffusionInferer(scheduler)
    predict = network if window is None else partial(window, network=network)
    drawn = []
    for number in range(seed, seed + num_draws):
        noise = seeded_noise((channels, *condition.shape[2:]), number).to(condition)
        noise = noise.expand(len(condition), *noise.shape)  # one for all cases: the same in every batch
        way = scheduler.seeded([number] * len(condition)) if isinstance(scheduler, StridedScheduler) else scheduler
        image = inferer.sample(noise, predict, way, conditioning=condition, mode="concat", verbose=False)  # type: ignore[arg-type]
        assert isinstance(image, Tensor)  # and not, as on request, the steps to it
        drawn.append(image)
    return torch.stack(drawn, 1)
