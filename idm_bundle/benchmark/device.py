"""The device as a benchmark sets it up: the kernels that a training would use, and the memory of a smaller card."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from monai.utils import set_determinism

from monai_idm import keep_freed_memory
from monai_idm.reversible import true_float32

__all__ = ["kernels_of_training", "shrink"]


@contextmanager
def kernels_of_training(device: str) -> Iterator[None]:
    """Choose kernels as a training does, deterministic ones of cuDNN and no TF32, and keep freed memory as it does."""
    if device != "estimate":
        keep_freed_memory()
        set_determinism(0)
    with true_float32():
        yield


def shrink(device: str, card_gb: float) -> None:
    """Make a CUDA device seem smaller than it is, for this process.

    Args:
        device: ``"cuda"`` or ``"cuda:1"``.
        card_gb: Memory in GB that it shall seem to have, with what CUDA's context and other programs occupy already.
    Raises:
        ValueError: If it has less memory than that, or is no CUDA device.
    """
    free, total = torch.cuda.mem_get_info(device) if device.startswith("cuda") else (0, 0)
    outside = total - free
    if not outside < card_gb * 1e9 <= total:
        raise ValueError(
            f"a card of {card_gb:g} GB on {device} of {total / 1e9:.1f} GB, of which {outside / 1e9:.1f} are occupied; "
            "--card_gb makes a CUDA device seem smaller than it is: give a value between the two, or leave it out"
        )
    torch.cuda.set_per_process_memory_fraction((card_gb * 1e9 - outside) / total, torch.device(device).index)
