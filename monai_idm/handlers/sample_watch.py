"""Warn when generated volumes look wrong, before days of training are spent."""

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
    """Interface of the object that finds faults: see :class:`~monai_idm.metrics.SampleFaults`."""

    def reset(self) -> None: ...
    def update(self, image: Tensor, mask: Tensor) -> None: ...
    def found(self, volumes: Tensor) -> dict[str, str]: ...


class SampleWatch:
    """Compare an evaluation's generated volumes with its real ones, and log what is wrong, with the likely cause.

    The metric ``sample_faults`` is the number of faults. Attach it to an evaluator, after GenerateVolumes and before
    handlers that read metrics. In distributed runs each process compares with its own cases, and process 0 logs.

    Args:
        faults: Object that finds the faults.
    """

    def __init__(self, faults: Faults) -> None:
        self.faults = faults

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_STARTED, self._started)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._update)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._report)

    def _started(self, engine: Engine) -> None:
        self.faults.reset()

    def _update(self, engine: Engine) -> None:
        for case in evaluated_cases(engine):
            self.faults.update(case["image"], case["mask"])

    def _report(self, engine: Any) -> None:
        sentences = self.faults.found(engine.state.generated)
        engine.state.metrics["sample_faults"] = len(sentences)
        if idist.get_rank() == 0:
            for sentence in sentences.values():
                logger.warning(sentence)
