"""Warns when what a network generates is wrong, before days are spent on it."""

from __future__ import annotations

import logging
from typing import Any, Protocol

import ignite.distributed as idist
from ignite.engine import Engine, Events
from torch import Tensor

from monai_idm.handlers.evaluated_cases import evaluated_cases

__all__ = ["SampleWatch"]

logger = logging.getLogger(__name__)


class Faults(Protocol):
    """What the watch asks of the object that judges: see :class:`~monai_idm.metrics.SampleFaults`."""

    def reset(self) -> None: ...
    def update(self, image: Tensor, mask: Tensor) -> None: ...
    def found(self, volumes: Tensor) -> dict[str, str]: ...


class SampleWatch:
    """Compare an evaluation's generated volumes with its real ones, and log what is wrong, with the likely cause.

    Metric ``sample_faults`` is the number of faults. Attach it to an evaluator behind a GenerateVolumes, and before
    what reads metrics. In distributed runs each process judges by its own cases, and the first one logs.

    Args:
        faults: Judges.
    """

    def __init__(self, faults: Faults) -> None:
        self.faults = faults

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_STARTED, self._started)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._update)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._judge)

    def _started(self, engine: Engine) -> None:
        self.faults.reset()

    def _update(self, engine: Engine) -> None:
        for case in evaluated_cases(engine):
            self.faults.update(case["image"], case["mask"])

    def _judge(self, engine: Any) -> None:
        found = self.faults.found(engine.state.generated)
        engine.state.metrics["sample_faults"] = len(found)
        if idist.get_rank() == 0:
            for sentence in found.values():
                logger.warning(sentence)
