"""Meters: plain objects that measure a window of work and know no engine; every figure carries its unit."""

from monai_idm.meters.estimation import Estimate, estimate
from monai_idm.meters.memory import LiveBytes, PeakMemoryMeter, live_bytes

__all__ = ["Estimate", "LiveBytes", "PeakMemoryMeter", "estimate", "live_bytes"]
