"""Memory and time of a step on the device where it runs: bytes, as ``Row`` names them, and seconds."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from monai_idm.meters import PeakMemoryMeter

__all__ = ["peaks", "seconds"]


def peaks(step: Callable[[], Any], device: torch.device, *baseline: Any) -> dict[str, int]:
    """Run a step and measure its ``peak_bytes``, and on CUDA also its ``reserved_bytes`` and ``card_bytes``.

    Args:
        step: Step to run.
        device: Device that it runs on.
        baseline: Tensors, modules and optimizers that exist already and count: see
            :class:`~monai_idm.meters.LiveBytes`.
    """
    meter = PeakMemoryMeter(device)
    meter.start(*baseline)
    step()
    measured = {name: round(gib * 2**30) for name, gib in meter.stop().items()}
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        outside = total - free - torch.cuda.memory_reserved(device)  # the context, kernels, other programs
        reserved = measured["reserved_peak_gib"]
        return {
            "peak_bytes": measured["allocated_peak_gib"],
            "reserved_bytes": reserved,
            "card_bytes": reserved + outside,
        }
    return {"peak_bytes": measured["live_peak_gib"]}


def seconds(step: Callable[[], Any], device: torch.device) -> float:
    """Time of a step, until the device has finished it."""
    start = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start
