"""Meters: plain objects that measure a window of work, independent of any engine; every figure carries its unit."""

from monai_idm.meters.energy import EnergyMeter, EnergySample
from monai_idm.meters.estimation import Estimate, denoising_step, estimate, estimate_flops
from monai_idm.meters.flops import count_flops
from monai_idm.meters.free_memory import free_memory_bytes
from monai_idm.meters.memory import LiveBytes, PeakMemoryMeter, live_bytes
from monai_idm.meters.optimizer_bytes import (
    EIGHT_BIT_IN_BACKWARD,
    EIGHT_BIT_MUON_IN_BACKWARD,
    IN_BACKWARD,
    MUON,
    OptimizerBytes,
    optimizer_bytes,
)

__all__ = [
    "EIGHT_BIT_IN_BACKWARD",
    "EIGHT_BIT_MUON_IN_BACKWARD",
    "IN_BACKWARD",
    "MUON",
    "EnergyMeter",
    "EnergySample",
    "Estimate",
    "LiveBytes",
    "OptimizerBytes",
    "PeakMemoryMeter",
    "count_flops",
    "denoising_step",
    "estimate",
    "estimate_flops",
    "free_memory_bytes",
    "live_bytes",
    "optimizer_bytes",
]
