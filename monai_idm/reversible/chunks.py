r"""A few samples at a time, where a whole batch would cost memory.

What an operation needs while it runs then does not grow with the batch. Every policy, forward and backward, cuts a
batch in the same way: one sample alone and the same sample in a batch need not agree in the last bit.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

__all__ = ["chunk_size", "chunks"]

AUTO_VOXELS = 2**18
"""A volume of 64^3, or an image of 512^2: smaller ones fill a GPU only together."""


def chunk_size(x: Tensor, branch_batch: int | str = "auto") -> int:
    """How many samples run at once.

    Args:
        x: ``(B, C, *spatial)``.
        branch_batch: As many; ``"auto"``: as many as have ``AUTO_VOXELS`` voxels together, at least one.
    """
    if torch.compiler.is_exporting():  # the number of samples may be open then
        return x.shape[0]
    return max(1, AUTO_VOXELS // x.shape[2:].numel()) if isinstance(branch_batch, str) else branch_batch


def chunks(*tensors: Tensor, size: int) -> Iterator[tuple[Tensor, ...]]:
    """Views of the same few samples of each tensor, from the first samples to the last."""
    if size >= tensors[0].shape[0]:
        return iter([tensors])
    return zip(*(t.split(size) for t in tensors), strict=True)
