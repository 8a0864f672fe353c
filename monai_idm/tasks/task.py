r"""The task of a diffusion model: what it learns to draw, and under what condition.

.. math:: x_t = \sqrt{\bar\alpha_t}\, x_0 + \sqrt{1 - \bar\alpha_t}\, \epsilon, \qquad
          \hat y = w(c) \odot U(\mathrm{pack}(x_t, c), t)

Training, validation, inference and the metadata of a packaged bundle all ask the task, so how a noisy image :math:`x_t`
and a condition :math:`c` become the input of the network :math:`U` is defined here and nowhere else.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from monai_idm.data.conditions import condition_names

__all__ = ["Task", "predicted_channels", "regression_timesteps", "task_named"]

_PREDICTED = {"v_prediction": "velocity of", "epsilon": "noise of", "sample": "", "flow": "flow to"}


class Task(ABC):
    """Base class of tasks: what a network draws, and under what condition.

    A new task is a module with one direct subclass, and a config that overlays ``train.yaml``. The subclass defines the
    attributes below, ``inputs``, ``drawn`` and ``image``; a task with a condition also overrides ``condition``. The
    other methods have defaults that suit most tasks.

    The arguments of the subclass's constructor are everything, besides the weights, that its results depend on. Keep
    each in an attribute of the same name: they are saved in the record of the weights (see ``settings``), and inference
    rebuilds the task from them. The class is found by its ``name``, once its module is imported.

    Attributes:
        name: Short name of the task, used in the names of its configs and in records.
        title: Title of a bundle for this task.
        description: What such a bundle does, in one sentence without a full stop.
        label_classes: What the label values are, for tasks that read labels.
        defaults: Default of each argument of the constructor, and of other settings that differ from ``train.yaml``'s.
            They apply as long as there are no weights that record the settings.
        modalities: Names of the MRI contrasts.
        regression: Whether the network predicts the image from the condition alone, in one pass and without noise. This
            is no diffusion, but the baseline that diffusion has to beat; the network is the same.
        numeric_conditions: Columns of a table that the network is conditioned on, as
            :func:`~monai_idm.data.fit_conditions` returns them; None: it takes no such conditions.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    description: ClassVar[str]
    label_classes: ClassVar[str] = "none"
    defaults: ClassVar[Mapping[str, Any]] = {}

    modalities: Sequence[str]
    regression: bool = False
    numeric_conditions: Sequence[Mapping[str, Any]] | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """The constructor's arguments, from which the task can be rebuilt; plain types that JSON can hold."""
        return {name: getattr(self, name) for name in setting_names(type(self))}

    @property
    @abstractmethod
    def inputs(self) -> list[str]:
        """Description of each input channel of the network."""

    @property
    @abstractmethod
    def drawn(self) -> list[str]:
        """Name of each channel C of a drawn image; the network's output has the same channels."""

    @property
    def num_classes(self) -> int | None:
        """Number of classes that the network is conditioned on; None: it takes no class labels."""
        return None

    @property
    def condition_names(self) -> list[str]:
        """Name of each numeric condition that the network takes, K in all."""
        return condition_names(self.numeric_conditions)

    @classmethod
    def accepts(cls, setting: str, trained: Any, given: Any) -> bool:
        """Whether weights trained with the value ``trained`` of a setting can be used with the value ``given``."""
        return bool(trained == given)

    @abstractmethod
    def image(self, batch: Mapping[str, Any]) -> Tensor:
        """The clean images x_0 of a batch, which the network learns to draw: ``(B, C, *spatial)``."""

    def condition(self, batch: Mapping[str, Any]) -> Tensor | None:
        """The condition c of a batch, ``(B, K, *spatial)``; None: images are drawn from noise alone."""
        return None

    def pack(self, x_t: Tensor, condition: Tensor | None) -> dict[str, Tensor]:
        """The network's arguments for x_t and c, without the timesteps.

        Returns:
            ``x``, whose channels ``inputs`` describes; by default the channels of x_t, then those of c. A task may add
            ``class_labels``, ``(B,)``.
        """
        return {"x": x_t if condition is None else torch.cat([x_t, condition], 1)}

    def weight(self, condition: Tensor | None) -> Tensor | None:
        """The weight w, ``(B, C, *spatial)``: 1 where the network predicts, 0 where the image is known; None: all 1."""
        return None

    def under_condition(self, network: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """Wrap the network to take x_t and c in one tensor, as MONAI's inferers and sliding windows pass them.

        Returns:
            A function of ``x``, ``(B, C + K, *spatial)``, and the timesteps that returns w times the network's output.
        """

        def predict(x: Tensor, timesteps: Tensor, context: None = None) -> Tensor:
            x_t, condition = x[:, : len(self.drawn)], x[:, len(self.drawn) :]
            y, w = network(**self.pack(x_t, condition), timesteps=timesteps), self.weight(condition)
            return y if w is None else y * w

        return predict

    def finished(self, draws: Tensor, condition: Tensor) -> Tensor:
        """Turn a sampler's draws into the images that are shown and saved.

        Args:
            draws: N draws of each case, ``(B, N, C, *spatial)``.
            condition: The condition that they were drawn under, ``(B, K, *spatial)``.
        Returns:
            Images of the same shape.
        """
        return draws

    def combined(self, draws: Tensor) -> Tensor:
        """Combine finished draws ``(B, N, C, *spatial)`` into one image per case, ``(B, C, *spatial)``: their mean."""
        return draws.mean(1)


def setting_names(task: type[Task]) -> list[str]:
    """Names of a task's settings: the arguments of its constructor."""
    return list(inspect.signature(task).parameters)


def regression_timesteps(scheduler: Any, like: Tensor) -> Tensor:
    """The timesteps that a network is given in a regression: always the last one, where images are noise alone.

    Args:
        scheduler: Scheduler of training or sampling.
        like: Tensor of the shape, dtype and device of the timesteps.
    """
    return torch.full_like(like, scheduler.num_train_timesteps - 1)


def predicted_channels(task: Task, prediction_type: str) -> list[str]:
    """Description of each output channel of the network, e.g. ``"velocity of T1"``.

    Args:
        task: Task of the network.
        prediction_type: What it predicts: ``"epsilon"``, ``"sample"``, ``"v_prediction"`` or ``"flow"``.
    """
    predicted = "" if task.regression else _PREDICTED[prediction_type]
    return [f"{predicted} {name}".strip() for name in task.drawn]


def task_named(name: str) -> type[Task]:
    """The task with this name, among the imported subclasses of :class:`Task`.

    Args:
        name: Name of the task, such as ``"generation"``.
    Raises:
        ValueError: If no imported task has this name.
    """
    tasks = {task.name: task for task in Task.__subclasses__()}
    if name not in tasks:
        raise ValueError(
            f"task {name!r} is not known, only {', '.join(tasks)}; import the module that defines it (imports: in the "
            "config)"
        )
    return tasks[name]
