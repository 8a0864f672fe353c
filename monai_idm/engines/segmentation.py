"""Draws masks in an evaluator's iteration, and keeps what an ensemble of them says."""

from __future__ import annotations

from typing import Any

import torch
from monai.engines.utils import IterationEvents
from monai.utils.enums import CommonKeys

__all__ = ["SegmentationIteration"]


class SegmentationIteration:
    """Iteration update of a MONAI evaluator whose inferer is a DiffusionSegmentationInferer.

    Leaves in the output, for N draws of R regions: ``draws`` ``(B, N, R, *spatial)``, 0 to 1, their ``mean`` and
    ``variance`` ``(B, R, *spatial)``, and ``pred``, where the mean is above 0.5, as the inferer's call gives it.
    """

    def __call__(self, engine: Any, batchdata: dict[str, Any]) -> dict[str, Any]:
        image = batchdata[CommonKeys.IMAGE].to(engine.state.device, non_blocking=engine.non_blocking)
        with engine.mode(engine.network):
            draws = engine.inferer.draws(image, engine.network)
        mean = draws.mean(1)
        engine.state.output = {
            "draws": draws,
            "mean": mean,
            "variance": draws.var(1, correction=0),
            CommonKeys.PRED: (mean > 0.5).to(torch.float32),
        }
        engine.fire_event(IterationEvents.FORWARD_COMPLETED)
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        return engine.state.output
