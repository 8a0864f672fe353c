"""Noise that depends only on its seed.

torch's CPU generator uses only the lower 32 bits of a seed: ``2**32 + seed`` is the same as ``seed``.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["mixed_seed", "seeded_noise"]


def seeded_noise(shape: Sequence[int], seed: int) -> Tensor:
    """Standard normal noise, drawn on the CPU: the same for every device, and independent of torch's global generator.

    Args:
        shape: Shape ``(C, *spatial)`` of one image; the noise of a batch would depend on the batch size.
        seed: An integer from 0 to 2**32 - 1.
    """
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def mixed_seed(*parts: int | str) -> int:
    """A 32-bit seed that depends on every one of some numbers and words."""
    return zlib.crc32(" ".join(map(str, parts)).encode())
