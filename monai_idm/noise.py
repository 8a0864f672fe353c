"""Noise that depends on its seed alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["seeded_noise"]


def seeded_noise(shape: Sequence[int], seed: int) -> Tensor:
    """Normal noise, drawn on the host: the same for every device, whatever else draws numbers.

    Args:
        shape: Of the noise, ``(C, *spatial)``: one image, because a batch's noise would depend on its size.
        seed: Any integer of at most 64 bits.
    """
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
