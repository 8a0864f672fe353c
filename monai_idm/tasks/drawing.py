r"""Draw images under a condition, in validation and inference.

.. math:: x_T \sim N(0, 1), \qquad x_s = \mathrm{step}(w(c) \odot U(\mathrm{pack}(x_t, c), t), x_t)
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from monai.engines.utils import IterationEvents
from monai.inferers import Inferer, SlidingWindowInferer
from monai.networks.schedulers.scheduler import Scheduler
from monai.utils.enums import CommonKeys
from torch import Tensor, nn

from monai_idm.inferers import InvertibleDiffusionInferer
from monai_idm.meters import free_memory_bytes, live_bytes
from monai_idm.networks.plan import share_of
from monai_idm.noise import seeded_noise
from monai_idm.reversible import fixed_matrices
from monai_idm.schedulers import check_sampler
from monai_idm.tasks.task import Task, regression_timesteps

__all__ = ["DrawingInferer", "DrawingIteration"]


class DrawingInferer(Inferer):
    """Draw several images under a condition and combine them: ``(inputs, network) -> prediction``.

    An inferer for MONAI's evaluators, MONAI Label and MONAI Deploy, and for any task with a condition. The task decides
    how draws are combined; by default their mean is taken.

    As many draws as fit into the free memory pass through the network together: a small volume alone leaves most of a
    GPU idle. How many they are changes a draw by no more than rounding.

    A task of regression has a single draw, the prediction of one pass, whatever ``scheduler`` and ``num_draws`` are.

    Args:
        scheduler: Scheduler to sample with, at the timesteps that are set in it.
        task: Task of the network, which defines what the condition and the drawn channels are.
        num_draws: Number of draws N.
        window: MONAI's SlidingWindowInferer, which at every step cuts the volume into patches and blends the network's
            predictions (its ``sw_batch_size`` is that of a single draw); or the size of such patches in voxels, which
            then overlap by a quarter; None: the network sees the whole volume.
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
            All draws, ``(B, N, C, *spatial)``, after ``task.finished``; N is 1 in a regression.
        Raises:
            ValueError: If the network has a different number of input channels than the task packs.
        """
        condition = inputs.as_subclass(Tensor)
        self._check_channels(condition, network)
        if self.task.regression:
            return self.task.finished(self._regressed(condition, network)[:, None], condition)
        check_sampler(self.scheduler)
        inferer, images = InvertibleDiffusionInferer(self.scheduler), []
        all_seeds = list(range(self.seed, self.seed + self.num_draws))
        with fixed_matrices(network):
            together = self._draws_per_pass(condition, network)
            for first in range(0, self.num_draws, together):
                seeds = all_seeds[first : first + together]
                image = inferer.sample(
                    self._noise(condition, seeds),
                    self._predictor(network, len(seeds)),
                    conditioning=condition[:, None].expand(-1, len(seeds), *condition.shape[1:]).flatten(0, 1),
                    mode="concat",
                    verbose=False,
                    seeds=seeds * len(condition),
                )
                images.append(image.unflatten(0, (-1, len(seeds))))
        return self.task.finished(torch.cat(images, 1), condition)

    def _regressed(self, condition: Tensor, network: Callable) -> Tensor:
        x = torch.cat([condition.new_zeros(len(condition), len(self.task.drawn), *condition.shape[2:]), condition], 1)
        timesteps = regression_timesteps(self.scheduler, condition.new_zeros(1))
        return self._predictor(network, 1)(x, timesteps=timesteps, context=None)

    def _noise(self, condition: Tensor, seeds: Sequence[int]) -> Tensor:
        """Noise ``(B * seeds, C, *spatial)``, the same for every case, so that a draw does not depend on the batch."""
        shape = (len(self.task.drawn), *condition.shape[2:])
        noise = torch.stack([seeded_noise(shape, seed) for seed in seeds]).to(condition)
        return noise.expand(len(condition), *noise.shape).flatten(0, 1)

    def _predictor(self, network: Callable, draws: int) -> Callable:
        """The network under the condition, for this many draws of each case."""
        under_condition = self.task.under_condition(network)
        if self.window is None:
            return under_condition
        window = copy.copy(self.window)
        window.sw_batch_size *= draws
        return partial(window, network=under_condition)

    def _draws_per_pass(self, condition: Tensor, network: Callable) -> int:
        """As many draws as fit into the free memory, at least one; what a draw needs is counted in a pass with one."""
        weights = network.parameters() if isinstance(network, nn.Module) else ()
        sharded = any(hasattr(p, "to_local") for p in weights)  # then all processes must make the same passes
        if self.num_draws == 1 or sharded:
            return 1
        x = torch.cat([self._noise(condition, [self.seed]), condition], 1)
        with live_bytes() as memory:
            self._predictor(network, 1)(x, timesteps=x.new_zeros(1), context=None)
        needed = memory.peak_bytes + 5 * x.nbytes  # x_t, x_0, noise, and what the sampler keeps of earlier steps
        fit = int(share_of(x.device) * (free_memory_bytes(x.device) or 0) // needed)
        passes = -(-self.num_draws // max(1, fit))
        return -(-self.num_draws // passes)

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
