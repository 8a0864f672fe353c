r"""One training step: draw timesteps and noise, noise the images, predict, compare.

.. math::
    t_i = \lfloor T u_i^p \rfloor, \qquad u_i = \frac{v_k + (i + k) \bmod B}{B}, \qquad
    v_k = (v_0 + k \varphi) \bmod 1, \qquad \epsilon \sim N(0, 1)

.. math::
    x_t = \sqrt{\bar\alpha_t}\, x_0 + \sqrt{1 - \bar\alpha_t}\, \epsilon, \qquad
    \hat y = w(c) \odot U(\mathrm{pack}(x_t, c), t), \qquad L(\hat y, w(c) \odot y)

The target :math:`y` is the noise, the image, the velocity or the flow, depending on the scheduler's prediction type;
the task defines :math:`x_0`, :math:`c`, pack and :math:`w`. In a regression :math:`x_t = 0`, and the target is
:math:`x_0`.

The :math:`u_i` of a batch of B cover the interval from 0 to 1 evenly, and so do those of any iterations k in a row, by
the golden ratio's fractional part :math:`\varphi`; :math:`v_0` depends on the seed. Even small batches, over which the
optimizer averages, then mix low and high noise levels, and the gradient varies less. p = 1 is uniform,
as in the paper. p = 2 draws timesteps below T / 5 more than twice as often: there the network learns the fine structure
of an image, little of which is left at later timesteps. Flows are usually trained with t / T from a logit-normal
distribution, :math:`t_i / T = 1 / (1 + \exp(-\Phi^{-1}(u_i)))`, which prefers the middle; it is then shifted by the
scheduler's ``noise_shift``.

Source: a batch's :math:`u_i` as in appendix I of Kingma et al. 2021, arXiv:2107.00630; :math:`v_k` is the additive
recurrence of least discrepancy, see Kuipers and Niederreiter 1974, "Uniform distribution of sequences"; the
logit-normal distribution and the shift are those of Esser et al. 2024, arXiv:2403.03206.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import ignite.distributed as idist
import torch
from monai.engines.utils import IterationEvents
from monai.networks.schedulers import RFlowScheduler
from monai.networks.schedulers.scheduler import Scheduler
from monai.utils.enums import CommonKeys
from torch import Tensor

from monai_idm.handlers import StepGuard
from monai_idm.losses import InvertibleDiffusionLoss
from monai_idm.noise import mixed_seed
from monai_idm.reversible import true_float32
from monai_idm.schedulers import check_noise_levels, check_prediction_type, is_flow, prediction_target
from monai_idm.tasks.task import Task, regression_timesteps

__all__ = ["TrainingStep"]

_GOLDEN = (math.sqrt(5) - 1) / 2


class TrainingStep:
    """``iteration_update`` of MONAI's SupervisedTrainer: MONAI's own step, for diffusion.

    The trainer provides network, optimizer, inferer, loss and ``accumulation_steps``. Its inferer, MONAI's
    SimpleInferer, calls the network. Any loss can be used: it is called with prediction and target, and an
    :class:`~monai_idm.losses.InvertibleDiffusionLoss` also with its other arguments. Events, their order and the output
    are those of MONAI's step; the output holds ``image`` (x_0), ``label`` (the target), ``pred`` (the prediction) and
    ``loss``.

    Timesteps and noise depend only on the seed and the trainer's iteration: a resumed run draws what an uninterrupted
    one would have drawn. Several processes together draw what a single process would draw for their combined batch,
    whose size is B: image i of process r of n is image r + n i of that batch, and every image has its own noise.

    A batch's ``class_label`` ``(B,)`` is passed to the network as ``class_labels``, unless the task packs its own.
    Its ``conditions`` ``(B, K)``, NaN where unknown, are passed on too, but those of some images are all made unknown:
    classifier-free guidance needs a network that also draws without conditions.

    Args:
        task: Task of the network, which defines what a batch holds and how the network is called.
        scheduler: Training scheduler.
        timestep_power: Power p of the timesteps' distribution, at least 1; None: the logit-normal distribution.
        seed: Seed of timesteps and noise.
        guard: Checks the loss and the gradients, and leaves the weights unchanged if they are bad. It must also be one
            of the trainer's handlers. None: every step is taken.
        condition_dropout: Probability that the conditions of an image are made unknown, from 0 to below 1.
    Raises:
        ValueError: If p is below 1, or ``condition_dropout`` is out of range, or the scheduler's prediction type is
            unknown, or it has no noise levels; during training, if the trainer's ``amp`` is set.
    """

    def __init__(
        self,
        task: Task,
        scheduler: Scheduler,
        timestep_power: float | None = 1.0,
        seed: int = 0,
        guard: StepGuard | None = None,
        condition_dropout: float = 0.1,
    ) -> None:
        if timestep_power is not None and timestep_power < 1:
            raise ValueError(
                f"timestep_power={timestep_power}; choose 1 (uniform) or more (towards little noise), or null for a "
                f"logit-normal distribution"
            )
        if not 0 <= condition_dropout < 1:
            raise ValueError(f"condition_dropout={condition_dropout}; choose 0 (none are dropped) to below 1")
        check_noise_levels(scheduler, "the training target")
        check_prediction_type(str(scheduler.prediction_type))
        self.task = task
        self.scheduler = scheduler
        self.timestep_power = timestep_power
        self.seed = seed
        self.guard = guard
        self.condition_dropout = condition_dropout

    def __call__(self, engine: Any, batchdata: Mapping[str, Any]) -> dict[str, Any]:
        if engine.amp:
            raise ValueError(
                "amp=True in the trainer, but the network sets its own precision; leave amp out and build the "
                'network with precision="mixed"'
            )
        torch.manual_seed(mixed_seed(self.seed, "step", engine.state.iteration))
        first, last = _place_in_accumulation(engine)
        engine.network.train()
        if first:
            engine.optimizer.zero_grad(set_to_none=engine.optim_set_to_none)
        with true_float32():  # also in the backward pass of stored activations, which the network does not run itself
            loss = self._loss(engine, batchdata)
            if self.guard is not None:
                self.guard.before_backward(engine, loss)
            (loss / engine.accumulation_steps).backward()
        engine.fire_event(IterationEvents.BACKWARD_COMPLETED)
        if self.guard is not None and not self.guard.step_is_good(engine, loss):
            engine.optimizer.zero_grad()  # sets them to None: the optimizer's step then changes nothing
        if last:
            engine.optimizer.step()
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        return engine.state.output

    def _loss(self, engine: Any, batch: Mapping[str, Any]) -> Tensor:
        task, scheduler = self.task, self.scheduler
        x0, c = _on_device(engine, task.image(batch)), task.condition(batch)
        c = None if c is None else _on_device(engine, c)
        noise, t = self.get_noise(x0), self.get_timesteps(x0, engine.state.iteration)
        if task.regression:
            x_t, target, t = torch.zeros_like(x0), x0, regression_timesteps(scheduler, t)
        else:
            x_t, target = scheduler.add_noise(x0, noise, t), prediction_target(scheduler, x0, noise, t)
        w = task.weight(c)
        target = target if w is None else target * w
        engine.state.output = output = {CommonKeys.IMAGE: x0, CommonKeys.LABEL: target}

        given = {"class_labels": batch["class_label"].to(t.device)} if "class_label" in batch else {}
        if "conditions" in batch:
            given["conditions"] = self.get_conditions(_on_device(engine, batch["conditions"]))
        arguments = {**given, **task.pack(x_t, c)}
        x = arguments.pop("x")
        y = engine.inferer(x, engine.network, timesteps=t, **arguments)
        output[CommonKeys.PRED] = prediction = y if w is None else y * w
        engine.fire_event(IterationEvents.FORWARD_COMPLETED)

        extended = isinstance(engine.loss_function, InvertibleDiffusionLoss)  # other losses take two arguments
        output[CommonKeys.LOSS] = engine.loss_function(
            prediction, target, **({"x": x, "timesteps": t, "output": y} if extended else {})
        ).mean()
        engine.fire_event(IterationEvents.LOSS_COMPLETED)
        return output[CommonKeys.LOSS]

    def get_noise(self, images: Tensor) -> Tensor:
        """Noise for this process's images, of the same shape and dtype."""
        seeds = _of_this_process(torch.randint(2**32, (len(images) * idist.get_world_size(),)))
        rng = torch.Generator(images.device)
        noise = [torch.randn(images.shape[1:], generator=rng.manual_seed(int(s)), device=images.device) for s in seeds]
        return torch.stack(noise).to(images.dtype)

    def get_timesteps(self, images: Tensor, iteration: int) -> Tensor:
        """Timesteps for this process's images, ``(B,)``, in an iteration; MONAI's RFlowScheduler draws its own."""
        scheduler: Any = self.scheduler
        batch = len(images) * idist.get_world_size()
        if isinstance(scheduler, RFlowScheduler):
            return _of_this_process(scheduler.sample_timesteps(images[:1].expand(batch, *images.shape[1:])))
        v = (mixed_seed(self.seed, "timesteps") / 2**32 + iteration * _GOLDEN) % 1
        u = _of_this_process((v + (torch.arange(batch, dtype=torch.float64) + iteration) % batch) / batch)
        t = torch.special.ndtri(u).sigmoid() if self.timestep_power is None else u**self.timestep_power
        if is_flow(scheduler):  # from 1, with hardly any noise, to T
            t = (scheduler.num_train_timesteps * scheduler.shifted(t)).ceil().clamp(min=1)
        else:
            t = scheduler.num_train_timesteps * t
        return t.long().to(images.device, non_blocking=True)

    def get_conditions(self, conditions: Tensor) -> Tensor:
        """The conditions ``(B, K)`` of this process's images, with all those of some images unknown."""
        drawn = _of_this_process(torch.rand(len(conditions) * idist.get_world_size()))
        dropped = (drawn < self.condition_dropout).to(conditions.device, non_blocking=True)
        return conditions.masked_fill(dropped[:, None], torch.nan)


def _on_device(engine: Any, tensor: Tensor) -> Tensor:
    """Move a tensor, and drop a MetaTensor's metadata, which costs time in every operation."""
    return tensor.as_subclass(Tensor).to(engine.state.device, non_blocking=engine.non_blocking, **engine.to_kwargs)


def _of_this_process(values: Tensor) -> Tensor:
    """This process's share of values that were drawn for the batches of all processes."""
    return values[idist.get_rank() :: idist.get_world_size()]


def _place_in_accumulation(engine: Any) -> tuple[bool, bool]:
    """Whether an accumulation starts with this iteration, and whether the optimizer steps after it, as in MONAI."""
    number, length, steps = engine.state.iteration, engine.state.epoch_length, engine.accumulation_steps
    if length is not None:
        number = (number - 1) % length + 1  # within the epoch, whose last iteration always steps
    return (number - 1) % steps == 0, number % steps == 0 or number == length
