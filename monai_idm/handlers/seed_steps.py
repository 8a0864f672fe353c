"""Random numbers of a training step that depend on the seed and the step alone."""

from __future__ import annotations

from typing import Any

import torch
from ignite.engine import Engine, Events

from monai_idm.noise import mixed_seed

__all__ = ["SeedSteps"]


class SeedSteps:
    """Seed torch's random numbers before each step of a trainer, and tell the batches at which step it starts.

    A training that goes on after an interruption then draws what it would have drawn without, and the processes of a
    distributed run draw alike. Attach it after what resumes.

    Args:
        batches: Of the trainer's data, with the seed; a :class:`~monai_idm.data.SeededBatches`.
    """

    def __init__(self, batches: Any) -> None:
        self.batches = batches

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self._started)
        engine.add_event_handler(Events.ITERATION_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        torch.manual_seed(mixed_seed(self.batches.seed, "step", engine.state.iteration))

    def _started(self, engine: Engine) -> None:
        self.batches.step = engine.state.iteration
