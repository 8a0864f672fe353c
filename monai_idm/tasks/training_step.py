r"""One step of training: draw, noise, predict, compare.

.. math::
    t_i = \lfloor T u_i^p \rfloor, \qquad u_i = (u + i / B) \bmod 1, \qquad u \sim U(0, 1), \qquad
    \epsilon \sim N(0, 1)

.. math::
    x_t = \sqrt{\bar\alpha_t}\, x_0 + \sqrt{1 - \bar\alpha_t}\, \epsilon, \qquad
    \hat y = w(c) \odot U(\mathrm{pack}(x_t, c), t), \qquad L(\hat y, w(c) \odot y)

The target :math:`y` is the noise, the image or the velocity, as the scheduler's prediction type says; what :math:`x_0`,
:math:`c`, pack and :math:`w` are, the task says.

Each :math:`u_i` is uniform, and together they cover the interval evenly: a small batch then never holds little noise
only, or much, and its gradient varies less (on phantoms at 32^3, batch 2, +0.2 dB in the same time). p = 1 is uniform,
as in the paper. p = 2 draws timesteps below T / 5 more than twice as often: there the fine structure of an image is
learned, of which little is left at later ones.

Source: :math:`u_i` as in appendix I of Kingma et al. 2021, arXiv:2107.00630.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ignite.distributed as idist
import torch
from monai.engines.utils import IterationEvents
from monai.networks.schedulers.scheduler import Scheduler
from monai.utils.enums import CommonKeys
from torch import Tensor

from monai_idm.handlers import StepGuard
from monai_idm.losses import InvertibleDiffusionLoss
from monai_idm.noise import mixed_seed
from monai_idm.schedulers import check_noise_levels, check_prediction_type, prediction_target
from monai_idm.tasks.task import Task

__all__ = ["TrainingStep"]


class TrainingStep:
    """``iteration_update`` of MONAI's SupervisedTrainer: its own step, with the draws of diffusion.

    Network, optimizer, inferer, loss and ``accumulation_steps`` are the trainer's. The inferer, MONAI's SimpleInferer,
    calls the network; the loss, which may be any, is called with prediction and target, and an
    :class:`~monai_idm.losses.InvertibleDiffusionLoss` with all that it asks for. Events, their order and the output are
    those of MONAI's step: ``image`` x_0, ``label`` the target, ``pred`` the prediction, ``loss``.

    Draws depend on the seed and the trainer's iteration alone: a training that goes on after an interruption draws what
    it would have drawn without. B counts the batches of all processes, which draw together what one process would draw
    for the whole: image i of process r of n is image r + n i there, and has its own noise.

    A batch's ``class_label``, ``(B,)``, goes to the network as ``class_labels``, unless the task has its own.

    Args:
        task: What the batches mean, and how the network is called.
        scheduler: Scheduler of the training.
        timestep_power: p, at least 1.
        seed: Seed of the draws.
        guard: Judges losses and gradients; where they are bad, the weights stay. It is one of the trainer's handlers,
            too. None: every step is taken.
    Raises:
        ValueError: If p is below 1, or the scheduler's prediction type is unknown, or it has no noise levels; in
            training, if the trainer's ``amp`` is set.
    """

    def __init__(
        self,
        task: Task,
        scheduler: Scheduler,
        timestep_power: float = 1.0,
        seed: int = 0,
        guard: StepGuard | None = None,
    ) -> None:
        if timestep_power < 1:
            raise ValueError(f"timestep_power={timestep_power}; choose 1 (uniform) or more (towards little noise)")
        check_noise_levels(scheduler, "the training target")
        check_prediction_type(str(scheduler.prediction_type))
        self.task = task
        self.scheduler = scheduler
        self.timestep_power = timestep_power
        self.seed = seed
        self.guard = guard

    def __call__(self, engine: Any, batchdata: Mapping[str, Any]) -> dict[str, Any]:
        if engine.amp:
            raise ValueError(
                "amp=True of the trainer, but the network has a precision of its own; leave amp out and build the "
                'network with precision="mixed"'
            )
        torch.manual_seed(mixed_seed(self.seed, "step", engine.state.iteration))
        first, last = _place_in_accumulation(engine)
        engine.network.train()
        if first:
            engine.optimizer.zero_grad(set_to_none=engine.optim_set_to_none)
        loss = self._loss(engine, batchdata)
        good = self.guard is None or self.guard.loss_is_good(engine)
        if good:
            (loss / engine.accumulation_steps).backward()
        engine.fire_event(IterationEvents.BACKWARD_COMPLETED)
        if self.guard is not None and not (good and self.guard.gradients_are_good(engine)):
            engine.optimizer.zero_grad()  # to None: the optimizer's step then changes nothing
        if last:
            engine.optimizer.step()
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        return engine.state.output

    def _loss(self, engine: Any, batch: Mapping[str, Any]) -> Tensor:
        task, scheduler = self.task, self.scheduler
        x0, c = _on_device(engine, task.image(batch)), task.condition(batch)
        c = None if c is None else _on_device(engine, c)
        noise, t = self.get_noise(x0), self.get_timesteps(x0)
        target, w = prediction_target(scheduler, x0, noise, t), task.weight(c)
        target = target if w is None else target * w
        engine.state.output = output = {CommonKeys.IMAGE: x0, CommonKeys.LABEL: target}

        classes = {"class_labels": batch["class_label"].to(t.device)} if "class_label" in batch else {}
        given = {**classes, **task.pack(scheduler.add_noise(x0, noise, t), c)}
        x = given.pop("x")
        y = engine.inferer(x, engine.network, timesteps=t, **given)
        output[CommonKeys.PRED] = prediction = y if w is None else y * w
        engine.fire_event(IterationEvents.FORWARD_COMPLETED)

        own = isinstance(engine.loss_function, InvertibleDiffusionLoss)  # others compare what they are given
        output[CommonKeys.LOSS] = engine.loss_function(
            prediction, target, **({"x": x, "timesteps": t, "output": y} if own else {})
        ).mean()
        engine.fire_event(IterationEvents.LOSS_COMPLETED)
        return output[CommonKeys.LOSS]

    def get_noise(self, images: Tensor) -> Tensor:
        """Noise for this process's images, of their shape and type."""
        seeds = _mine(torch.randint(2**32, (len(images) * idist.get_world_size(),)))
        draw = torch.Generator(images.device)
        noise = [torch.randn(images.shape[1:], generator=draw.manual_seed(int(s)), device=images.device) for s in seeds]
        return torch.stack(noise).to(images.dtype)

    def get_timesteps(self, images: Tensor) -> Tensor:
        """Timesteps for this process's images, ``(B,)``."""
        batch = len(images) * idist.get_world_size()
        u = _mine((torch.rand(1, dtype=torch.float64) + torch.arange(batch) / batch) % 1)
        return (self.scheduler.num_train_timesteps * u**self.timestep_power).long().to(images.device)


def _on_device(engine: Any, tensor: Tensor) -> Tensor:
    """Without a MetaTensor's metadata, which costs time in every operation."""
    return tensor.as_subclass(Tensor).to(engine.state.device, non_blocking=engine.non_blocking, **engine.to_kwargs)


def _mine(drawn: Tensor) -> Tensor:
    """Of what is drawn for the whole batch, this process's part."""
    return drawn[idist.get_rank() :: idist.get_world_size()]


def _place_in_accumulation(engine: Any) -> tuple[bool, bool]:
    """Whether gradients begin with this iteration, and whether the optimizer steps after it: as in MONAI's step."""
    number, length, steps = engine.state.iteration, engine.state.epoch_length, engine.accumulation_steps
    if length is not None:
        number = (number - 1) % length + 1  # in its epoch, whose last iteration steps with what there is
    return (number - 1) % steps == 0, number % steps == 0 or number == length
