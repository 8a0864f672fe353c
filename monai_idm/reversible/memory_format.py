"""How the channels and voxels of a volume lie in memory.

On a CPU the network keeps the channels of a voxel next to each other ("channels last"), because convolutions and
products of channels are faster there: at 64^3, a bfloat16 convolution of 16 channels takes three quarters of its time,
an orthogonal mixing less than half. The format is chosen at the entry of the network. Every operation keeps the format
of its input, in the forward and in the backward pass, so that both run the same kernels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["fastest_format", "from_voxel_rows", "in_format", "is_channels_last", "memory_format_of", "voxel_rows"]

_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


def fastest_format(x: Tensor) -> torch.memory_format:
    """The memory format in which the network computes fastest on a device.

    Args:
        x: A tensor on this device, ``(B, C, *spatial)``.
    """
    if x.device.type != "cpu" or torch.compiler.is_exporting():
        return torch.contiguous_format
    return _CHANNELS_LAST.get(x.ndim, torch.contiguous_format)


def in_format(x: Tensor, memory_format: torch.memory_format) -> Tensor:
    """The tensor in a memory format, copied if need be.

    With one sample or one channel, ``x.contiguous(memory_format=...)`` may return x as it is, in strides by which
    torch's kernels recognise another format.

    Args:
        x: ``(B, C, *spatial)``.
        memory_format: ``contiguous_format``, ``channels_last`` or ``channels_last_3d``.
    """
    if memory_format == torch.contiguous_format:
        return x.contiguous()
    return x.movedim(1, -1).flatten().view(x.shape[0], *x.shape[2:], x.shape[1]).movedim(-1, 1)


@torch.jit.unused
def voxel_rows(x: Tensor) -> Tensor:
    """The channels of every voxel of a channels-last tensor, without a copy.

    Args:
        x: ``(B, C, *spatial)``, channels last.
    Returns:
        ``(B * voxels, C)``.
    """
    return x.movedim(1, -1).flatten(0, -2)


@torch.jit.unused
def from_voxel_rows(rows: Tensor, batch: int, sides: Sequence[int]) -> Tensor:
    """The reverse of :func:`voxel_rows`, for contiguous rows."""
    return rows.unflatten(0, (batch, *sides)).movedim(-1, 1)


def is_channels_last(x: Tensor) -> bool:
    """Whether the channels of a voxel lie next to each other, without gaps.

    Args:
        x: A tensor of any shape; only ``(B, C, H, W)`` and ``(B, C, H, W, D)`` can be so.
    """
    return x.ndim in _CHANNELS_LAST and x.stride(1) == 1 and x.is_contiguous(memory_format=_CHANNELS_LAST[x.ndim])


def memory_format_of(x: Tensor) -> torch.memory_format:
    """The memory format of a tensor without gaps; ``contiguous_format`` for any other.

    Args:
        x: A tensor of any shape.
    """
    return _CHANNELS_LAST[x.ndim] if is_channels_last(x) else torch.contiguous_format
