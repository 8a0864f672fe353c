"""Library versions, and what the devices of this machine are and can do."""

from __future__ import annotations

import platform

import monai
import torch

from monai_idm.version import __version__

__all__ = ["VERSIONS", "device_name", "has_bfloat16"]

VERSIONS = {"monai_idm": __version__, "monai": monai.__version__, "torch": str(torch.__version__)}


def device_name(device: torch.device | str) -> str:
    """Name of a device: the model of a GPU, or the architecture and number of threads in use of a CPU."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()}, {torch.get_num_threads()} threads"


def has_bfloat16(device: torch.device | str) -> bool:
    """Whether a device multiplies bfloat16 by instructions of its own, which is faster than float32.

    GPUs from Ampere on do, and x86 CPUs with AVX512-BF16 or AMX. ARM CPUs count as without: how fast their bfloat16
    convolutions in 3D are has not been measured.

    Args:
        device: The device.
    """
    device = torch.device(device)
    if device.type == "cuda":
        with torch.cuda.device(device):
            return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        able = torch.cpu.get_capabilities()
        return torch.backends.mkldnn.is_available() and any(able.get(name) for name in ("avx512_bf16", "amx_bf16"))
    return False
