"""What a step takes on the device where it runs: bytes, as ``Row`` names them, and seconds."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from monai_idm.meters import PeakMemoryMeter

__all__ = ["peaks", "seconds"]


def peaks(step: Callable[[], Any], device: torch.device, *baseline: Any) -> dict[str, int | None]:
    """Run a step; ``peak_bytes``, and on CUDA ``reserved_bytes``.

    Args:
        step: What to run.
        device: Where it runs.
        baseline: What is there before and shall count: see :class:`~monai_idm.meters.LiveBytes`.
    """
    meter = PeakMemoryMeter(device)
    meter.start(*baseline)
    step()
    found = {name: round(gib * 2**30) for name, gib in meter.stop().items()}
    if device.type == "cuda":
        return {"peak_bytes": found["allocated_peak_gib"], "reserved_bytes": found["reserved_peak_gib"]}
    return {"peak_bytes": found["live_peak_gib"], "reserved_bytes": None}


def seconds(step: Callable[[], Any], device: torch.device) -> float:
    """Run a step, and wait until the device has done it."""
    start = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start
