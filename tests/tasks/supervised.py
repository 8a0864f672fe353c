"""A task without noise, whose steps are easy to follow, and a MONAI trainer for any task."""

from __future__ import annotations

import torch
from ignite.engine import Events
from monai.engines import SupervisedTrainer
from monai.networks.schedulers import DDPMScheduler
from torch import nn

from monai_idm.tasks import Task

SAMPLE = DDPMScheduler(100, "cosine", prediction_type="sample")


class Supervised(Task):
    """The network sees ``image`` and learns ``label``, as in supervised training; use it with ``SAMPLE``."""

    name, title, description = "supervised", "Supervised", "Tests the rest of a step"
    inputs = drawn = ("a number",)

    def image(self, batch):
        return batch["label"]

    def condition(self, batch):
        return batch["image"]

    def pack(self, x_t, condition):
        return {"x": condition}


class Timed(nn.Sequential):
    """Layers that ignore the timesteps."""

    def forward(self, x, timesteps, context=None):
        return super().forward(x)


def error(prediction, target):
    """A loss that is not an InvertibleDiffusionLoss."""
    return nn.functional.mse_loss(prediction, target)


def trainer(step, data, network, optimizer=None, loss=error, handlers=(), epochs=1, **settings):
    """A trainer, and a list that collects the output of each of its steps when it runs."""
    engine = SupervisedTrainer(
        torch.device("cpu"), epochs, data, network, optimizer or torch.optim.AdamW(network.parameters(), 1e-2), loss,
        iteration_update=step, train_handlers=list(handlers), decollate=False, **settings,
    )  # fmt: skip
    outputs = []
    engine.add_event_handler(Events.ITERATION_COMPLETED, lambda engine: outputs.append(engine.state.output))
    return engine, outputs
