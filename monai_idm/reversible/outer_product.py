"""The sum of outer products of channels over all voxels, for the gradient of a matrix that mixes channels.

It is a product of matrices with few rows and columns, but a sum over as many terms as there are voxels. cuBLAS gives
such a sum to a few blocks of threads and leaves most of a GPU idle; here parts of it are summed side by side. Parts
round less, too.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["outer_product"]

_PART = 1024
"""Voxels of a part."""
_ELEMENTS = 2**24
"""Elements of a factor that are rearranged at a time, at most: 64 MB in float32."""


def outer_product(left: Sequence[Tensor], right: Sequence[Tensor]) -> Tensor:
    r"""Sum of the outer products of ``left`` and ``right`` over samples and voxels.

    Args:
        left: Channels in one or several tensors ``(B, ..., channels, voxels)``.
        right: The same, with as many samples and voxels; ``left`` is converted to its precision.
    Returns:
        ``(..., channels of left, channels of right)``.
    """
    widest = max(sum(t[..., 0].numel() for t in side) for side in (left, right))
    parts_at_a_time = max(1, _ELEMENTS // (_PART * widest))
    total = None
    for chunk in zip(*(t.split(parts_at_a_time * _PART, -1) for t in (*left, *right)), strict=True):
        whole = chunk[0].shape[-1] // _PART * _PART
        for some in (slice(whole), slice(whole, None)):
            voxels = chunk[0][..., some].shape[-1]
            if voxels:
                parts = [t[..., some].unflatten(-1, (-1, min(_PART, voxels))).movedim(-2, 0) for t in chunk]
                product = (_joined(parts[: len(left)]).to(right[0].dtype) @ _joined(parts[len(left) :]).mT).sum((0, 1))
                total = product if total is None else total.add_(product)
    assert total is not None  # a volume has voxels
    return total


def _joined(channels: Sequence[Tensor]) -> Tensor:
    return channels[0] if len(channels) == 1 else torch.cat([*channels], -2)
