r"""Additive coupling: one half of the channels changes by a function of the other half."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from monai_idm.reversible.fixed_point import snap
from monai_idm.reversible.operation import Rebuilt, ReversibleOperation, Tensors, linearise

__all__ = ["AdditiveCoupling"]


class AdditiveCoupling(ReversibleOperation):
    r"""Add a function of one half of the channels to the other, and swap.

    .. math:: (a, b) \mapsto (b, a + F(b, e)), \qquad (y_1, y_2) \mapsto (y_2 - F(y_1, e), y_1)

    The input of the branch is known before the inversion, so that in the backward pass one evaluation of the branch
    serves the inversion and the gradient.

    Args:
        f: Branch F, ``(B, C/2, *spatial), (B, E) -> (B, C/2, *spatial)``. GroupNorm, not BatchNorm: it runs twice.
    Raises:
        ValueError: In the forward pass, if F changes the shape.
    Source: additive coupling after Gomez et al. 2017, arXiv:1707.04585.
    """

    def __init__(self, f: nn.Module) -> None:
        super().__init__()
        self.f = f

    def condition(self, embedding: Tensor) -> tuple[Tensor, ...]:
        return (embedding,)

    def map(self, inputs: Tensors, condition: Tensors, kept: list[Tensor] | None = None) -> Tensors:
        a, b = inputs
        return b, a + self._step(_same_shape(self.f(b, *condition), a))

    def inverse(self, outputs: Tensors, condition: Tensors, kept: Tensors = ()) -> Tensors:
        y1, y2 = outputs
        return y2 - self._step(self.f(y1, *condition)), y1

    def rebuild(self, outputs: Tensors, gradients: Tensors, condition: Tensors, kept: Tensors) -> Rebuilt:
        y1, y2 = outputs
        dy1, dy2 = gradients
        f = linearise(self.f, y1, *condition)
        a = y2 - self._step(f.value)
        (db, *dc), dw = f.pull(dy2)
        return Rebuilt((a, y1), (dy2, dy1 if db is None else dy1 + db), dc, dw)

    def _step(self, f: Tensor) -> Tensor:
        # to the stream's precision first: a branch in bfloat16 has no such grid
        return snap(f if f.dtype == torch.float64 else f.float()) if self.exact else f


def _same_shape(f: Tensor, a: Tensor) -> Tensor:
    if f.shape != a.shape:
        raise ValueError(
            f"the branch of an AdditiveCoupling returned shape {tuple(f.shape)} for an input of {tuple(a.shape)}; "
            f"a branch must keep the shape of its half: check its padding and its channels"
        )
    return f
