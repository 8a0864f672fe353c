"""Draws contrasts in an evaluator's iteration, beside those that are looked for."""

from __future__ import annotations

from typing import Any

from monai.engines.utils import IterationEvents
from monai.utils.enums import CommonKeys

__all__ = ["SynthesisIteration"]


class SynthesisIteration:
    """Iteration update of a MONAI evaluator whose inferer is a DiffusionSynthesisInferer.

    Leaves in the output, for N draws of M contrasts: ``draws`` ``(B, N, M, *spatial)``, their mean ``pred`` and
    ``variance`` ``(B, M, *spatial)``, and, where the batch has one, ``target``, all in the network's range.
    """

    def __call__(self, engine: Any, batchdata: dict[str, Any]) -> dict[str, Any]:
        image = batchdata[CommonKeys.IMAGE].to(engine.state.device, non_blocking=engine.non_blocking)
        with engine.mode(engine.network):
            draws = engine.inferer.draws(image, engine.network)
        engine.state.output = {
            "draws": draws,
            CommonKeys.PRED: draws.mean(1),
            "variance": draws.var(1, correction=0),
        }
        if "target" in batchdata:
            engine.state.output["target"] = batchdata["target"].to(image.device)
        engine.fire_event(IterationEvents.FORWARD_COMPLETED)
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        return engine.state.output
