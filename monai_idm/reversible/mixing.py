"""A learned orthogonal mixing of the channels of both halves."""

from functools import partial, reduce

import torch
from torch import Tensor

from monai_idm.reversible.cayley import cayley
from monai_idm.reversible.chunks import chunk_size, chunks, in_chunks
from monai_idm.reversible.memory_format import from_voxel_rows, is_channels_last, voxel_rows
from monai_idm.reversible.operation import Tensors
from monai_idm.reversible.orthogonal import Orthogonal
from monai_idm.reversible.outer_product import outer_product

__all__ = ["OrthogonalMixing"]

_VOXELS = 2**18
"""Voxels that are mixed at a time, at most, so that the temporary memory does not grow with the volume."""


class OrthogonalMixing(Orthogonal):
    r"""Orthogonal 1 x 1 convolution over the channels of both halves, so that every channel can reach either half.

    .. math:: \binom{y_1}{y_2} = W \binom{a}{b}

    Args:
        channels: C, the channels of both halves together.
    Shape: halves ``(B, C/2, *spatial)`` in and out.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels)

    def matrix(self) -> Tensor:
        return cayley(self.generator)

    def multiply(self, w: Tensor, halves: Tensors) -> Tensors:
        if torch.jit.is_scripting():
            return _blocks(w, halves[0], halves[1])
        else:
            size = chunk_size(halves[0])
            if torch.compiler.is_exporting() or torch.is_grad_enabled():
                return in_chunks(partial(_blocks, w), *halves, size=size)
            outputs = [torch.empty_like(x) for x in halves]
            for a, b, *products in chunks(*halves, *outputs, size=size):
                _write_blocks(w, a, b, products)
            return outputs

    def multiply_transposed(self, w: Tensor, halves: Tensors) -> Tensors:
        return self.multiply(w.transpose(0, 1), halves)

    def undo(self, w: Tensor, outputs: Tensors) -> Tensors:
        _mix_(w.mT, outputs)
        return outputs

    def outer(self, gradients: Tensors, inputs: Tensors) -> Tensor:
        if is_channels_last(inputs[0]):
            pieces = zip(*(voxel_rows(t).split(_VOXELS) for t in (*gradients, *inputs)), strict=True)
            products = (torch.cat([dy1, dy2], 1).to(a.dtype).mT @ torch.cat([a, b], 1) for dy1, dy2, a, b in pieces)
            return reduce(torch.add, products)
        return outer_product([dy.flatten(2) for dy in gradients], [x.flatten(2) for x in inputs])


def _blocks(w: Tensor, a: Tensor, b: Tensor) -> Tensors:
    """W times both halves, which are never concatenated."""
    if not torch.jit.is_scripting():  # noqa: SIM102 - TorchScript skips a block only for this exact condition
        if is_channels_last(a):
            return _blocks_of_rows(w, a, b)
    a_, b_ = a.flatten(2), b.flatten(2)
    outputs: list[Tensor] = []
    for rows in w.expand(a.shape[0], -1, -1).chunk(2, 1):
        w1, w2 = rows.chunk(2, 2)
        outputs.append(torch.bmm(w1, a_).baddbmm_(w2, b_).reshape(a.shape))  # in place: no second temporary
    return outputs


@torch.jit.unused
def _blocks_of_rows(w: Tensor, a: Tensor, b: Tensor) -> Tensors:
    a_, b_ = voxel_rows(a), voxel_rows(b)
    outputs = []
    for rows in w.chunk(2, 0):
        w1, w2 = rows.chunk(2, 1)
        outputs.append(from_voxel_rows(torch.mm(a_, w1.mT).addmm_(b_, w2.mT), a.shape[0], a.shape[2:]))
    return outputs


@torch.jit.unused
def _write_blocks(w: Tensor, a: Tensor, b: Tensor, outputs: Tensors) -> None:
    """The same, written into tensors that are there."""
    if is_channels_last(a):
        _write_rows(w, *(voxel_rows(t) for t in (a, b, *outputs)))
    else:
        _write_columns(w, *(t.flatten(2) for t in (a, b, *outputs)))


def _write_rows(w: Tensor, a: Tensor, b: Tensor, *outputs: Tensor) -> None:
    for rows, y in zip(w.chunk(2, 0), outputs, strict=True):
        w1, w2 = rows.chunk(2, 1)
        torch.mm(a, w1.mT, out=y).addmm_(b, w2.mT)


def _write_columns(w: Tensor, a: Tensor, b: Tensor, *outputs: Tensor) -> None:
    for rows, y in zip(w.expand(len(a), -1, -1).chunk(2, 1), outputs, strict=True):
        w1, w2 = rows.chunk(2, 2)
        torch.bmm(w1, a, out=y).baddbmm_(w2, b)


@torch.jit.unused
def _mix_(w: Tensor, halves: Tensors) -> None:
    """W times both halves in place, a few voxels at a time; the halves may be in a lower precision than W."""
    for a, b in chunks(*halves, size=chunk_size(halves[0])):
        rows = is_channels_last(a)
        pieces = (voxel_rows(t).split(_VOXELS) if rows else t.flatten(2).split(_VOXELS, 2) for t in (a, b))
        for a_, b_ in zip(*pieces, strict=True):
            x1, x2 = a_.to(w.dtype), b_.to(w.dtype)
            y1, y2 = torch.empty_like(x1), torch.empty_like(x2)
            (_write_rows if rows else _write_columns)(w, x1, x2, y1, y2)
            a_.copy_(y1)
            b_.copy_(y2)
