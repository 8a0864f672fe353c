r"""What a network learns to draw, and under what condition.

.. math:: x_t = \sqrt{\bar\alpha_t}\, x_0 + \sqrt{1 - \bar\alpha_t}\, \epsilon, \qquad
          \hat y = w(c) \odot U(\mathrm{pack}(x_t, c), t)

Training, validation, inference and the description of a packaged bundle all ask the task: how the noisy image
:math:`x_t` and the condition :math:`c` become the input of the network :math:`U` is said here and nowhere else.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

__all__ = ["Task", "predicted_channels", "task_named"]

_PREDICTED = {"v_prediction": "velocity of", "epsilon": "noise of", "sample": ""}


class Task(ABC):
    """A task of a diffusion model; a subclass is one module, with one config that overlays train.yaml.

    The arguments of a subclass's constructor are what its result depends on besides the weights: they go into the
    record of the weights (``settings``), and inference makes the task of them again.

    Attributes:
        name: Name of the task: of its configs, and in records.
        title: Name of a bundle that does it, for people.
        description: What such a bundle does, in a sentence.
        label_classes: What the numbers of labels mean, where there are any.
        defaults: Settings of a training that differ from those of a generative model, where nobody says otherwise.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    description: ClassVar[str]
    label_classes: ClassVar[str] = "none"
    defaults: ClassVar[Mapping[str, Any]] = {}

    modalities: Sequence[str]

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments that make this task again, plain types."""
        return {name: getattr(self, name) for name in setting_names(type(self))}

    @property
    @abstractmethod
    def inputs(self) -> list[str]:
        """What each channel of the network's input holds."""

    @property
    @abstractmethod
    def drawn(self) -> list[str]:
        """What each channel of a drawn image shows; the network's output has the same channels."""

    @property
    def num_classes(self) -> int | None:
        """Number of classes that the network tells apart; None: it takes no class."""
        return None

    @classmethod
    def accepts(cls, setting: str, trained: Any, given: Any) -> bool:
        """Whether a run may have this value of a setting with weights that were trained with that."""
        return bool(trained == given)

    @abstractmethod
    def image(self, batch: Mapping[str, Any]) -> Tensor:
        """x_0 of a batch, which training noises and the network learns to draw: ``(B, C, *spatial)``."""

    def condition(self, batch: Mapping[str, Any]) -> Tensor | None:
        """c of a batch, ``(B, K, *spatial)``; None: images are drawn from noise alone."""
        return None

    def pack(self, x_t: Tensor, condition: Tensor | None) -> dict[str, Tensor]:
        """The network's arguments, without the timesteps: ``x``, and whatever else says what is known."""
        return {"x": x_t if condition is None else torch.cat([x_t, condition], 1)}

    def weight(self, condition: Tensor | None) -> Tensor | None:
        """w: 1 for what the network has to predict, 0 for what is known; None: it predicts everything."""
        return None

    def under_condition(self, network: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """The network for x_t and c in one tensor, as MONAI's inferers and sliding windows hand them over."""

        def predict(x: Tensor, timesteps: Tensor, context: None = None) -> Tensor:
            x_t, condition = x[:, : len(self.drawn)], x[:, len(self.drawn) :]
            y, w = network(**self.pack(x_t, condition), timesteps=timesteps), self.weight(condition)
            return y if w is None else y * w

        return predict

    def finished(self, draws: Tensor, condition: Tensor) -> Tensor:
        """Draws as they are shown and written, from those of a sampler: ``(B, N, C, *spatial)``, C as of ``drawn``."""
        return draws

    def combined(self, draws: Tensor) -> Tensor:
        """What is made of several finished draws, ``(B, C, *spatial)``: their mean."""
        return draws.mean(1)


def setting_names(task: type[Task]) -> list[str]:
    """Names of the settings that are a task's own."""
    return list(inspect.signature(task).parameters)


def predicted_channels(task: Task, prediction_type: str) -> list[str]:
    """What each channel of the network's output holds."""
    return [f"{_PREDICTED[prediction_type]} {name}".strip() for name in task.drawn]


def task_named(name: str) -> type[Task]:
    """The task of a name, among those that were imported.

    Raises:
        ValueError: If there is none.
    """
    tasks = {task.name: task for task in Task.__subclasses__()}
    if name not in tasks:
        raise ValueError(
            f"task {name!r} is not known, only {', '.join(tasks)}; import the module that defines it (imports: in the "
            "config)"
        )
    return tasks[name]
