r"""Streams on a grid, so that adding and subtracting is exact and rebuilt activations equal stored ones bit for bit.

A float32 whose value is a multiple of :math:`2^{-k}` adds to another without rounding as long as the sum stays below
:math:`2^{24-k}`. So a coupling that rounds its branch to the grid is inverted exactly:

.. math:: y_2 = a + \mathrm{snap}(F(b)), \qquad a = y_2 - \mathrm{snap}(F(b)), \qquad
    \mathrm{snap}(z) = 2^{-k} \mathrm{round}(2^k z)

An orthogonal map or a scale leaves the grid. Its output is snapped, and what the inverse then misses is kept as a
remainder of one byte per element:

.. math:: y = \mathrm{snap}(W x), \qquad r = 2^k (x - \mathrm{snap}(W^T y)), \qquad x = \mathrm{snap}(W^T y) + 2^{-k} r

The gradient passes straight through the rounding. With k = 12, the rounding is a hundredth of the noise of bfloat16.

Source: exact integer streams after MacKay et al. 2018, arXiv:1810.10999, and momentum networks (Sander et al. 2021,
arXiv:2102.07870).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["GRID_BITS", "add_remainder", "remainder", "restore", "snap", "snap_"]

GRID_BITS = 12
"""k: float32 streams are exact below 2 ** (24 - k) = 4096."""

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


def remainder(inputs: Sequence[Tensor], inverted: Sequence[Tensor]) -> list[Tensor]:
    """Differences between inputs and their snapped inverses, in units of the grid.

    Args:
        inputs: Inputs of the operation, on the grid.
        inverted: The inverse of the snapped outputs, before it is snapped.
    Returns:
        One int8 tensor per input; 8 bits are enough while the operation's condition number is below 100.
    """
    return [((x - _round(z)) * _SCALE).to(torch.int8) for x, z in zip(inputs, inverted, strict=True)]


def restore(inverted: Sequence[Tensor], remainders: Sequence[Tensor] | None) -> list[Tensor]:
    """The inputs from the inverse of the snapped outputs: exact with the remainders, to a grid unit without them."""
    return add_remainder([snap_(z) for z in inverted], remainders)


def add_remainder(snapped: Sequence[Tensor], remainders: Sequence[Tensor] | None) -> list[Tensor]:
    """Add remainders, in units of the grid, to tensors on the grid, in place; no remainders change nothing."""
    if not remainders:
        return list(snapped)
    return [z.mul_(_SCALE).add_(r).div_(_SCALE) for z, r in zip(snapped, remainders, strict=True)]


def _round(z: Tensor, scale: float = _SCALE) -> Tensor:
    return (z * scale).round_().div_(scale)


class _Snap(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z):
        return _round(z)

    @staticmethod
    def backward(ctx, gradient):
        return gradient
