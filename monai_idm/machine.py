"""Library versions, and what the devices of this machine are and can do."""

from __future__ import annotations

import platform
from functools import cache

import monai
import torch

from monai_idm.version import __version__

__all__ = ["VERSIONS", "check_compiler", "device_name", "has_bfloat16"]

VERSIONS = {"monai_idm": __version__, "monai": monai.__version__, "torch": str(torch.__version__)}


@cache
def check_compiler() -> None:
    """Compile a tiny function with torch.compile, for a GPU or, if there is none, for the CPU.

    Raises:
        ValueError: If that fails, usually because a compiler is missing.
    """
    device, needed = "cpu", "a C++ compiler (g++, or the one that the variable CXX names)"
    if torch.cuda.is_available():
        device, needed = "cuda", "Triton (pip install triton) and a C compiler (gcc)"
    try:
        torch.compile(_double, dynamic=False)(torch.ones(8, device=device))
    except Exception as error:  # its type depends on what is missing
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(
            f"torch.compile does not work on this {device.upper()}: {reason}; compile_branches needs {needed}: "
            f"install it, or set --compile_branches false"
        ) from error


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
    if device.type == "cuda" and torch.cuda.is_available():
        with torch.cuda.device(device):
            return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        able = torch.cpu.get_capabilities()
        return torch.backends.mkldnn.is_available() and any(able.get(name) for name in ("avx512_bf16", "amx_bf16"))
    return False


def _double(x: torch.Tensor) -> torch.Tensor:
    return x + x
