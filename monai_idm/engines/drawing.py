"""Draws under a condition in an evaluator's iteration, and keeps what an ensemble of them says."""

from __future__ import annotations

from typing import Any

from monai.engines.utils import IterationEvents
from monai.utils.enums import CommonKeys

__all__ = ["DrawingIteration"]


class DrawingIteration:
    """``iteration_update`` of a MONAI evaluator whose inferer draws, as those of segmentation and synthesis do.

    Leaves in the output, for N draws of C channels: ``draws`` ``(B, N, C, *spatial)``, their ``mean`` and ``variance``
    ``(B, C, *spatial)``, and ``pred``, what the inferer's call makes of them.
    """

    def __call__(self, engine: Any, batchdata: dict[str, Any]) -> dict[str, Any]:
        image = batchdata[CommonKeys.IMAGE].to(engine.state.device, non_blocking=engine.non_blocking)
        with engine.mode(engine.network):
            draws = engine.inferer.draws(image, engine.network)
        engine.state.output = {
            "draws": draws,
            "mean": draws.mean(1),
            "variance": draws.var(1, correction=0),
            CommonKeys.PRED: engine.inferer.combined(draws),
        }
        engine.fire_event(IterationEvents.FORWARD_COMPLETED)
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        return engine.state.output
