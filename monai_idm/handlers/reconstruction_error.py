"""Check during evaluation that the reversible core still inverts itself."""

from __future__ import annotations

import logging
from typing import Any, cast

from ignite.engine import Engine, Events
from monai.utils.enums import CommonKeys

from monai_idm.handlers.evaluated_cases import evaluated_cases

__all__ = ["ReconstructionErrorHandler", "error_limit"]

logger = logging.getLogger(__name__)


class ReconstructionErrorHandler:
    """Metric ``core_reconstruction_error``: relative error of the rebuilt streams on the first case of an evaluation.

    In float32 it stays near 1e-6, in mixed precision near 1e-2: a branch that is run again on a stream that differs in
    its last bit may round to the next bfloat16. (In a training on brains at 64^3 in mixed precision, the gradients of
    all weights together were off by 1e-4 then.) Gradients are only as accurate as the activations they are computed
    from, so an error is logged if the metric is above the limit or NaN. Networks that rebuild nothing are skipped.
    Attach it to the evaluator, before handlers that read metrics.

    Args:
        limit: Largest error that is not logged, above 0; None: 0.01, or 0.1 if the network's training is in mixed
            precision.
    Raises:
        ValueError: If the limit is not above 0.
    """

    def __init__(self, limit: float | None = None) -> None:
        if limit is not None and not limit > 0:
            raise ValueError(f"limit={limit}; choose an error limit larger than 0")
        self.limit = limit
        self._error: float | None = None

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.ITERATION_COMPLETED(once=1), self._measure)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._report)

    def _measure(self, engine: Engine) -> None:
        image = evaluated_cases(engine)[0][CommonKeys.IMAGE][None]
        network = cast(Any, engine).network
        if not hasattr(network, "reconstruction_error"):
            return
        self._error = network.reconstruction_error(image.to(next(network.parameters()).device))

    def _report(self, engine: Engine) -> None:
        if self._error is None:
            return
        engine.state.metrics["core_reconstruction_error"] = self._error
        limit = self.limit or error_limit(cast(Any, engine).network)
        if not self._error <= limit:
            logger.error(
                "the rebuilt activations have an error of %.1e, above the limit of %.0e: gradients are inaccurate. "
                'Resume from an earlier checkpoint with a smaller learning_rate, or with precision="exact" or '
                'activations="checkpointed"',
                self._error,
                limit,
            )


def error_limit(network: Any) -> float:
    """The largest relative error of rebuilt activations at which gradients are accurate enough."""
    precision = network.training_precision() if hasattr(network, "training_precision") else None
    return 0.1 if precision == "mixed" else 1e-2
