"""Noise that depends on its seed alone.

torch's generator on a CPU looks at the lower 32 bits of a seed: ``2**32 + seed`` is the same as ``seed``.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["mixed_seed", "seeded_noise"]


def seeded_noise(shape: Sequence[int], seed: int) -> Tensor:
    """Normal noise, drawn on the host: the same for every device, whatever else draws numbers.

    Args:
        shape: Of the noise, ``(C, *spatial)``: one image, because a batch's noise would depend on its size.
        seed: An integer from 0 to 2**32 - 1.
    """
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def mixed_seed(*parts: int | str) -> int:
    """A seed of 32 bits for each combination of numbers and words."""
    return zlib.crc32(" ".join(map(str, parts)).encode())
