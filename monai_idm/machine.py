"""What a figure or a checkpoint was made with: versions and machine."""

from __future__ import annotations

import platform

import monai
import torch

from monai_idm.version import __version__

__all__ = ["VERSIONS", "device_name"]

VERSIONS = {"monai_idm": __version__, "monai": monai.__version__, "torch": str(torch.__version__)}


def device_name(device: torch.device | str) -> str:
    """The kind of a device: a GPU's name, or of a CPU the architecture and the threads in use."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()}, {torch.get_num_threads()} threads"
