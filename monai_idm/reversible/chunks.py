r"""Run a function on a few samples of a batch at a time, so that its working memory does not grow with the batch.

Every policy splits a batch in the same way, forward and backward: the result for a sample may differ in the last bit
between running it alone and running it in a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from monai_idm.reversible.memory_format import memory_format_of

__all__ = ["chunk_size", "chunks", "in_chunks", "recomputed_in_chunks"]

AUTO_VOXELS = 2**18
"""Voxels of a 64^3 volume or a 512^2 image: smaller ones fill a GPU only when several run together."""


def chunk_size(x: Tensor, branch_batch: int | str = "auto") -> int:
    """Number of samples that run together.

    Args:
        x: ``(B, C, *spatial)``.
        branch_batch: That number, or ``"auto"``: as many samples as fit into ``AUTO_VOXELS`` voxels, at least one.
    """
    if torch.compiler.is_exporting():  # the batch size may be dynamic
        return x.shape[0]
    return max(1, AUTO_VOXELS // x.shape[2:].numel()) if isinstance(branch_batch, str) else branch_batch


def chunks(*tensors: Tensor, size: int) -> Iterator[tuple[Tensor, ...]]:
    """Views of the same ``size`` samples of every tensor, from the first samples to the last."""
    if size >= tensors[0].shape[0]:
        return iter([tensors])
    return zip(*(t.split(size) for t in tensors), strict=True)


def in_chunks(
    f: Callable[..., Sequence[Tensor]], *tensors: Tensor, size: int, gradient_dtype: torch.dtype | None = None
) -> list[Tensor]:
    """Apply a function to a few samples at a time.

    Args:
        f: Function of a chunk of each tensor; returns tensors with as many samples.
        tensors: Tensors of the same batch size.
        size: Samples per chunk.
        gradient_dtype: Precision to which the gradients of several chunks are rounded; None: theirs.
    """
    batch = tensors[0].shape[0]
    if size >= batch:
        return list(f(*tensors))
    if torch.is_grad_enabled():
        parts_of = zip(*(_differentiable_chunks(t, size, gradient_dtype) for t in tensors), strict=True)
        return [torch.cat(parts) for parts in zip(*(f(*chunk) for chunk in parts_of), strict=True)]
    outputs: list[Tensor] = []
    start = 0
    for chunk in chunks(*tensors, size=size):  # written in place: concatenating all parts would take twice the memory
        parts = f(*chunk)
        outputs = outputs or [_empty(batch, part) for part in parts]
        for output, part in zip(outputs, parts, strict=True):
            output[start : start + size] = part
        start += size
        del parts, part  # free them before the next chunk runs
    return outputs


def _differentiable_chunks(tensor: Tensor, size: int, gradient_dtype: torch.dtype | None) -> Iterator[Tensor]:
    """The same chunks as autograd nodes, each made when it is needed, since the backward pass runs nodes in reverse."""
    if not tensor.requires_grad:
        return iter(tensor.split(size))
    gradient = _JoinedGradient(tensor.shape[0], gradient_dtype)
    return (_Chunk.apply(tensor, start, size, gradient) for start in range(0, tensor.shape[0], size))


class _JoinedGradient:
    """The gradient of a batch, which the chunks write: joined at the end, it would exist twice."""

    def __init__(self, batch: int, dtype: torch.dtype | None) -> None:
        self.batch = batch
        self.dtype = dtype
        self.tensor: Tensor | None = None
        self.missing = batch

    def write(self, start: int, part: Tensor) -> Tensor | None:
        """Write the gradient of some samples; returns the whole as soon as it is complete."""
        if self.tensor is None:
            self.tensor = _empty(self.batch, part, self.dtype)
        self.tensor[start : start + len(part)] = part
        self.missing -= len(part)
        if self.missing:
            return None
        whole, self.tensor, self.missing = self.tensor, None, self.batch
        return whole


class _Chunk(torch.autograd.Function):
    @staticmethod
    def forward(ctx, tensor, start, size, gradient):
        ctx.start, ctx.gradient = start, gradient
        return tensor[start : start + size]

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        return ctx.gradient.write(ctx.start, gradient), None, None, None


def _empty(batch: int, like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    shape = (batch, *like.shape[1:])
    return torch.empty(shape, dtype=dtype or like.dtype, device=like.device, memory_format=memory_format_of(like))


def recomputed_in_chunks(
    f: Callable[..., Sequence[Tensor]],
    *tensors: Tensor,
    branch_batch: int | str = "auto",
    stored: bool = False,
    gradient_dtype: torch.dtype | None = None,
) -> list[Tensor]:
    """Apply a function that has no inverse to a few samples at a time, and recompute each chunk in the backward pass.

    Args:
        f: The same as in :func:`in_chunks`; must not draw random numbers.
        tensors: The same as in :func:`in_chunks`.
        branch_batch: The same as in :func:`chunk_size`.
        stored: Keep the activations of f instead of recomputing them.
        gradient_dtype: The same as in :func:`in_chunks`.
    """

    def recomputed(*chunk: Tensor) -> Sequence[Tensor]:
        return checkpoint(f, *chunk, use_reentrant=False, preserve_rng_state=False)

    runs_once = stored or not torch.is_grad_enabled() or torch.compiler.is_exporting()
    size = chunk_size(tensors[0], branch_batch)
    return in_chunks(f if runs_once else recomputed, *tensors, size=size, gradient_dtype=gradient_dtype)
