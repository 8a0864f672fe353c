"""Watch that the reversible core still inverts itself."""

from __future__ import annotations

from typing import Any, cast

from ignite.engine import Engine, Events
from monai.utils.enums import CommonKeys

from monai_idm.handlers.cases import evaluated_cases

__all__ = ["ReconstructionErrorHandler"]


class ReconstructionErrorHandler:
    """Metric ``core_reconstruction_error``: max |stream - rebuilt stream| on the first batch of an evaluation.

    In float32 it stays near 1e-6 times the size of the stream. Attach it to the evaluator, before what reads metrics.
    """

    def __init__(self) -> None:
        self._error: float | None = None

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.ITERATION_COMPLETED(once=1), self._measure)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._report)

    def _measure(self, engine: Engine) -> None:
        image = evaluated_cases(engine)[0][CommonKeys.IMAGE][None]
        network = cast(Any, engine).network
        self._error = network.reconstruction_error(image.to(next(network.parameters()).device))

    def _report(self, engine: Engine) -> None:
        engine.state.metrics["core_reconstruction_error"] = self._error
