r"""A few samples at a time, where a whole batch would cost memory.

What an operation needs while it runs then does not grow with the batch. Every policy, forward and backward, cuts a
batch in the same way: one sample alone and the same sample in a batch need not agree in the last bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

__all__ = ["chunk_size", "chunks", "in_chunks", "recomputed_in_chunks"]

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


def in_chunks(f: Callable[..., Sequence[Tensor]], *tensors: Tensor, size: int) -> list[Tensor]:
    """A function of a few samples at a time.

    Args:
        f: Of chunks of the tensors; returns tensors of as many samples.
        size: Samples at a time.
    """
    batch = tensors[0].shape[0]
    if size >= batch:
        return list(f(*tensors))
    if torch.is_grad_enabled():
        return [torch.cat(part) for part in zip(*(f(*few) for few in chunks(*tensors, size=size)), strict=True)]
    whole: list[Tensor] = []
    start = 0
    for few in chunks(*tensors, size=size):  # each into its place: with all parts there at once, it were twice as much
        parts = f(*few)
        whole = whole or [part.new_empty(batch, *part.shape[1:]) for part in parts]
        for all_, part in zip(whole, parts, strict=True):
            all_[start : start + size] = part
        start += size
        del parts, part  # before the next ones come
    return whole


def recomputed_in_chunks(
    f: Callable[..., Sequence[Tensor]], *tensors: Tensor, branch_batch: int | str = "auto", stored: bool = False
) -> list[Tensor]:
    """An ordinary function of a few samples at a time; backward runs each chunk once more, unless it is stored.

    Args:
        f: As of :func:`in_chunks`, without random numbers.
        branch_batch: As of :func:`chunk_size`.
        stored: Keep what f keeps for its backward pass.
    """

    def recomputed(*few: Tensor) -> Sequence[Tensor]:
        return checkpoint(f, *few, use_reentrant=False, preserve_rng_state=False)

    once = stored or not torch.is_grad_enabled() or torch.compiler.is_exporting()
    return in_chunks(f if once else recomputed, *tensors, size=chunk_size(tensors[0], branch_batch))
