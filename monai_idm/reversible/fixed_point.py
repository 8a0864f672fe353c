r"""Streams on a grid, so that adding and subtracting is exact and rebuilt activations equal stored ones bit for bit.

A float32 whose value is a multiple of :math:`2^{-k}` adds to another without rounding as long as the sum stays below
:math:`2^{24-k}`. So a coupling that rounds its branch to the grid is inverted exactly:

.. math:: y_2 = a + \mathrm{snap}(F(b)), \qquad a = y_2 - \mathrm{snap}(F(b)), \qquad
    \mathrm{snap}(z) = 2^{-k} \mathrm{round}(2^k z)

An orthogonal map or a scale leaves the grid. Its output is snapped, and what the inverse then misses is kept as a
remainder of four bits per element:

.. math:: y = \mathrm{snap}(W x), \qquad r = 2^k (x - \mathrm{snap}(W^T y)), \qquad x = \mathrm{snap}(W^T y) + 2^{-k} r

The gradient passes straight through the rounding. With k = 12, the rounding is a hundredth of the noise of bfloat16.

Source: exact integer streams after MacKay et al. 2018, arXiv:1810.10999, and momentum networks (Sander et al. 2021,
arXiv:2102.07870).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["GRID_BITS", "LARGEST", "add_remainder", "first_beyond", "remainder", "restore", "snap", "snap_"]

GRID_BITS = 12
"""k, binary digits behind the point."""

LARGEST = 2.0 ** (24 - GRID_BITS)
"""Largest magnitude of a stream that float32 can hold exactly on the grid, 4096."""

_SCALE = 2.0**GRID_BITS


def snap(z: Tensor) -> Tensor:
    """Round to the grid; the gradient passes straight through."""
    if torch.jit.is_scripting():
        return _round(z)
    else:
        return _Snap.apply(z) if torch.is_grad_enabled() and z.requires_grad else _round(z)


def snap_(z: Tensor) -> Tensor:
    """Like :func:`snap`, but in place if z requires no gradient."""
    return snap(z) if z.requires_grad else z.mul_(_SCALE).round_().div_(_SCALE)


def first_beyond(streams: Sequence[Tensor], position: int, found: Tensor | None = None) -> Tensor:
    """Largest magnitude of an operation's outputs, and its position in the chain.

    Args:
        streams: The outputs, tensors of any shapes.
        position: Position of the operation.
        found: What this function returned for the operation before; None: there is none.
    Returns:
        ``(2,)``, on the device: ``found``, if its magnitude is above :data:`LARGEST`, so that the first such operation
        is kept; otherwise that of this operation.
    """
    largest = torch.stack([torch.linalg.vector_norm(t.detach(), torch.inf) for t in streams]).amax()
    here = torch.stack([largest, torch.full_like(largest, position)])
    return here if found is None else torch.where(found[0] <= LARGEST, here, found)


def remainder(inputs: Sequence[Tensor], inverted: Sequence[Tensor]) -> list[Tensor]:
    """Differences between inputs and their snapped inverses, in units of the grid.

    The outputs were snapped by half a unit at most. An orthogonal map brings that back as errors of 0.3 units on
    average, in whatever number of channels, so that differences beyond 2 are as good as impossible; a scale from 1/2 to
    2, as errors of 1 unit at most.

    Args:
        inputs: Inputs of the operation, on the grid, ``(B, ...)``.
        inverted: The inverse of the snapped outputs, before it is snapped.
    Returns:
        For each input, numbers from -8 to 7 in four bits each, ``(B, bytes)``.
    """
    return [_packed((x - _round(z)).mul_(_SCALE).to(torch.int8)) for x, z in zip(inputs, inverted, strict=True)]


def restore(inverted: Sequence[Tensor], remainders: Sequence[Tensor] | None) -> list[Tensor]:
    """The inputs from the inverse of the snapped outputs: exact with the remainders, to a grid unit without them."""
    return add_remainder([snap_(z) for z in inverted], remainders)


def add_remainder(snapped: Sequence[Tensor], remainders: Sequence[Tensor] | None) -> list[Tensor]:
    """Add remainders to tensors on the grid, in place; no remainders change nothing."""
    if not remainders:
        return list(snapped)
    return [z.mul_(_SCALE).add_(_unpacked(r, z.shape)).div_(_SCALE) for z, r in zip(snapped, remainders, strict=True)]


def _packed(numbers: Tensor) -> Tensor:
    """Two numbers of a sample in a byte: one of the first half of them and one of the second."""
    flat = numbers.flatten(1)
    first, second = flat.tensor_split([-(-flat.shape[1] // 2)], 1)
    return (first & 15).bitwise_or_(torch.nn.functional.pad(second, (0, first.shape[1] - second.shape[1])) << 4)


def _unpacked(packed: Tensor, shape: torch.Size) -> Tensor:
    count = shape[1:].numel()
    return torch.cat([(packed << 4) >> 4, packed >> 4], 1)[:, :count].view(shape)


def _round(z: Tensor, scale: float = _SCALE) -> Tensor:
    return (z * scale).round_().div_(scale)


class _Snap(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z):
        return _round(z)

    @staticmethod
    def backward(ctx, gradient):
        return gradient
