"""Library versions and device name, to record with results and checkpoints."""

from __future__ import annotations

import platform

import monai
import torch

from monai_idm.version import __version__

__all__ = ["VERSIONS", "device_name"]

VERSIONS = {"monai_idm": __version__, "monai": monai.__version__, "torch": str(torch.__version__)}


def device_name(device: torch.device | str) -> str:
    """Name of a device: the model of a GPU, or the architecture and number of threads in use of a CPU."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()}, {torch.get_num_threads()} threads"
