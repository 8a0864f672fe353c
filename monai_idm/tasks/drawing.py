r"""Draw images under a condition, in validation and inference.

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
from monai_idm.reversible import fixed_matrices
from monai_idm.schedulers import StridedScheduler, check_sampler, fresh_sampler
from monai_idm.tasks.task import Task

__all__ = ["DrawingInferer", "DrawingIteration"]


class DrawingInferer(Inferer):
    """Draw several images under a condition and combine them: ``(inputs, network) -> prediction``.

    An inferer for MONAI's evaluators, MONAI Label and MONAI Deploy, and for any task with a condition. The task decides
    how draws are combined; by default their mean is taken.

    Args:
        scheduler: Scheduler to sample with, at the timesteps that are set in it.
        task: Task of the network, which defines what the condition and the drawn channels are.
        num_draws: Number of draws N.
        window: MONAI's SlidingWindowInferer, which at every step cuts the volume into patches and blends the network's
            predictions; or the size of such patches in voxels, which then overlap by a quarter; None: the network sees
            the whole volume.
        seed: Seed of the first draw. Draw i of every case uses the noise of ``seed + i``, whatever the state of torch's
            random generator.
    Raises:
        ValueError: If ``num_draws`` or the number of channels is below 1, or ``scheduler`` cannot be sampled with.
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
        """The combined draws, ``(B, C, *spatial)``. Arguments and errors as in :meth:`draws`."""
        return self.task.combined(self.draws(inputs, network))

    @torch.no_grad()
    def draws(self, inputs: Tensor, network: Callable) -> Tensor:
        """Draw N images of each case.

        Args:
            inputs: The condition c, ``(B, K, *spatial)``.
            network: The diffusion network.
        Returns:
            All draws, ``(B, N, C, *spatial)``, after ``task.finished``.
        Raises:
            ValueError: If the network has a different number of input channels than the task packs.
        """
        condition = inputs.as_subclass(Tensor)
        channels = len(self.task.drawn)
        self._check_channels(condition, network)
        inferer = DiffusionInferer(self.scheduler)
        under_condition = self.task.under_condition(network)
        predict = under_condition if self.window is None else partial(self.window, network=under_condition)
        images = []
        for seed in range(self.seed, self.seed + self.num_draws):
            noise = seeded_noise((channels, *condition.shape[2:]), seed).to(condition)
            # the same for every case, so that a draw does not depend on the batch
            noise = noise.expand(len(condition), *noise.shape)
            sampler = fresh_sampler(self.scheduler)
            if isinstance(sampler, StridedScheduler):
                sampler = sampler.seeded([seed] * len(condition))
            with fixed_matrices(network):
                image = inferer.sample(noise, predict, sampler, conditioning=condition, mode="concat", verbose=False)  # type: ignore[arg-type]
            assert isinstance(image, Tensor)  # a pair only with save_intermediates
            images.append(image)
        return self.task.finished(torch.stack(images, 1), condition)

    def _check_channels(self, condition: Tensor, network: Any) -> None:
        voxel = condition[(slice(1), slice(None), *[slice(1)] * (condition.ndim - 2))]
        packed = self.task.pack(voxel[:, :1].expand(-1, len(self.task.drawn), *voxel.shape[2:]), voxel)["x"].shape[1]
        expected = getattr(network, "in_channels", packed)
        if expected != packed:
            raise ValueError(
                f"the network has {expected} input channels, but {len(self.task.drawn)} drawn channels and a condition "
                f"of {condition.shape[1]} make {packed}; is a contrast missing, or AddCoordinatesd?"
            )


class DrawingIteration:
    """``iteration_update`` of a MONAI evaluator that draws images under the condition of each batch.

    The evaluator's inferer must be a :class:`DrawingInferer`; its task takes the condition from the batch.

    The output holds, for N draws of C channels: ``draws`` ``(B, N, C, *spatial)``; ``draw``, the first of them, and
    their ``mean`` and ``variance``, ``(B, C, *spatial)`` each; and ``pred``, the draws combined by the task.
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
