"""What one training step draws and shows the network."""

from __future__ import annotations

import torch
from torch import nn

from monai_idm.noise import mixed_seed
from monai_idm.tasks import Generation
from tests.tasks.supervised import trainer

SIZE = (4, 6, 4)
ONE = Generation(["t1"])


def images(channels, cases=2, seed=0):
    return torch.randn(cases, channels, *SIZE, generator=torch.Generator().manual_seed(seed))


class Watched(nn.Module):
    """Predicts a function of its arguments, and records them."""

    def __init__(self, channels):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.channels, self.seen = channels, []

    def forward(self, x, timesteps, context=None, class_labels=None, conditions=None):
        given = {"class_labels": class_labels, "conditions": conditions}
        self.seen.append({"x": x.detach(), "timesteps": timesteps, **given})
        shift = timesteps / 100 + (0 if class_labels is None else class_labels)
        return self.scale * torch.tanh(x[:, : self.channels] + shift.view(-1, 1, 1, 1, 1))


def one_step(step, batch, network=None, **settings):
    """The output of a step, and what the network was given."""
    network = network or Watched(len(step.task.drawn))
    engine, outputs = trainer(step, [batch], network, **settings)
    engine.run()
    return outputs[0], network.seen[0]


def drawn(step, x0, iteration=1):
    """The noise and the timesteps of a step, which depend on its seed and the iteration alone."""
    torch.manual_seed(mixed_seed(step.seed, "step", iteration))
    return step.get_noise(x0), step.get_timesteps(x0, iteration)
