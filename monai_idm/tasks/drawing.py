r"""Draws under a condition, in validation and inference.

.. math:: x_T \sim N(0, 1), \qquad x_s = \mathrm{step}(w(c) \odot U(\mathrm{pack}(x_t, c), t), x_t)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from monai.engines.utils import IterationEvents
from monai.inferers import DiffusionInferer, Inferer, SlidingWindowInferer
from monai.networks.schedulers.scheduler import Scheduler
from monai.utils.enums import CommonKeys
from torch import Tensor

from monai_idm.noise import seeded_noise
from monai_idm.schedulers import StridedScheduler, check_sampler, fresh_sampler
from monai_idm.tasks.task import Task

__all__ = ["DrawingInferer", "DrawingIteration"]


class DrawingInferer(Inferer):
    """``(inputs, network) -> prediction``, for MONAI's evaluators, MONAI Label and Deploy: the mean of several draws.

    Args:
        scheduler: Scheduler to sample with; its steps are taken as they are set.
        task: What the inputs, the condition of the task, and the draws mean.
        num_draws: Number of draws N.
        window: MONAI's SlidingWindowInferer, which cuts the volume into patches and blends what the network makes of
            them, at every step; a size in voxels: one whose patches overlap by a quarter; None: the network sees the
            whole volume.
        seed: Draw i of every case starts from the noise of ``seed + i``, whatever else draws numbers.
    Raises:
        ValueError: If ``num_draws`` or the number of channels is below 1, or the scheduler cannot be sampled with.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        task: Task,
        num_draws: int = 1,
        window: SlidingWindowInferer | Sequence[int] | int | None = None,
        seed: int = 0,
    ) -> None:
        if num_draws < 1 or not task.drawn:
            raise ValueError(f"{num_draws} draws of {len(task.drawn)} channels; choose 1 or more of each")
        check_sampler(scheduler)
        if not isinstance(window, SlidingWindowInferer | None):
            window = SlidingWindowInferer(window, sw_batch_size=1, overlap=0.25, mode="gaussian")
        self.scheduler = scheduler
        self.task = task
        self.num_draws = num_draws
        self.window = window
        self.seed = seed

    def __call__(self, inputs: Tensor, network: Callable, *args: Any, **kwargs: Any) -> Tensor:
        """The prediction, ``(B, C, *spatial)``; arguments as of ``draws``."""
        return self.task.combined(self.draws(inputs, network))

    @torch.no_grad()
    def draws(self, inputs: Tensor, network: Callable) -> Tensor:
        """Every draw.

        Args:
            inputs: The condition, ``(B, K, *spatial)``.
            network: The diffusion model.
        Returns:
            ``(B, N, C, *spatial)``, as the task finishes them.
        Raises:
            ValueError: If the network takes another number of channels.
        """
        condition = inputs.as_subclass(Tensor)
        channels = len(self.task.drawn)
        self._check(condition, network)
        inferer = DiffusionInferer(self.scheduler)
        under_condition = self.task.under_condition(network)
        predict = under_condition if self.window is None else partial(self.window, network=under_condition)
        drawn = []
        for seed in range(self.seed, self.seed + self.num_draws):
            noise = seeded_noise((channels, *condition.shape[2:]), seed).to(condition)
            noise = noise.expand(len(condition), *noise.shape)  # one for all cases: the same in every batch
            way = fresh_sampler(self.scheduler)
            if isinstance(way, StridedScheduler):
                way = way.seeded([seed] * len(condition))
            image = inferer.sample(noise, predict, way, conditioning=condition, mode="concat", verbose=False)  # type: ignore[arg-type]
            assert isinstance(image, Tensor)  # and not, as on request, the steps to it
            drawn.append(image)
        return self.task.finished(torch.stack(drawn, 1), condition)

    def _check(self, condition: Tensor, network: Any) -> None:
        voxel = condition[(slice(1), slice(None), *[slice(1)] * (condition.ndim - 2))]
        packed = self.task.pack(voxel[:, :1].expand(-1, len(self.task.drawn), *voxel.shape[2:]), voxel)["x"].shape[1]
        expected = getattr(network, "in_channels", packed)
        if expected != packed:
            raise ValueError(
                f"a network of {expected} channels, and an input of {packed}: {len(self.task.drawn)} of what is drawn, "
                f"the others of a condition of {condition.shape[1]}; was a contrast forgotten, or AddCoordinatesd?"
            )


class DrawingIteration:
    """``iteration_update`` of a MONAI evaluator whose inferer is a :class:`DrawingInferer`; its task says what of a
    batch is the condition.

    Leaves in the output, for N draws of C channels: ``draws`` ``(B, N, C, *spatial)``; ``draw``, the first of them,
    their ``mean`` and ``variance`` ``(B, C, *spatial)``; and ``pred``, what the inferer's call makes of them.
    """

    def __call__(self, engine: Any, batchdata: dict[str, Any]) -> dict[str, Any]:
        condition = engine.inferer.task.condition(batchdata)
        condition = condition.to(engine.state.device, non_blocking=engine.non_blocking)
        with engine.mode(engine.network):
            draws = engine.inferer.draws(condition, engine.network)
        engine.state.output = {
            "draws": draws,
            "draw": draws[:, 0],
            "mean": draws.mean(1),
            "variance": draws.var(1, correction=0),
            CommonKeys.PRED: engine.inferer.task.combined(draws),
        }
        engine.fire_event(IterationEvents.FORWARD_COMPLETED)
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        return engine.state.output
