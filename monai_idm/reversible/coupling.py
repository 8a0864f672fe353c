r"""Additive coupling: one half of the channels changes by a function of the other half."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from monai_idm.reversible.chunks import chunk_size, chunks, in_chunks
from monai_idm.reversible.fixed_point import snap
from monai_idm.reversible.operation import Rebuilt, ReversibleOperation, Tensors, linearise, summed

__all__ = ["AdditiveCoupling"]


class AdditiveCoupling(ReversibleOperation):
    r"""Add a function of one half of the channels to the other, and swap.

    .. math:: (a, b) \mapsto (b, a + F(b, e)), \qquad (y_1, y_2) \mapsto (y_2 - F(y_1, e), y_1)

    The input of the branch is known before the inversion, so in the backward pass a single evaluation of the branch
    serves both the inversion and the gradient.

    Args:
        f: Branch F, ``(B, C/2, *spatial), (B, E) -> (B, C/2, *spatial)``. Use GroupNorm, not BatchNorm: F runs twice.
        branch_batch: Samples per evaluation of F, so that its working memory does not grow with the batch;
            ``"auto"`` chooses by the size of the volume.
    Raises:
        ValueError: In the forward pass, if F changes the shape.
    Source: additive coupling after Gomez et al. 2017, arXiv:1707.04585.
    """

    def __init__(self, f: nn.Module, branch_batch: int | str = "auto") -> None:
        super().__init__()
        self.f = f
        self.branch_batch = branch_batch

    def condition(self, embedding: Tensor) -> Tensors:
        return [embedding]

    def map(self, inputs: Tensors, condition: Tensors, remainders: Tensors | None = None) -> Tensors:
        a, b = inputs
        return [b, a + self._increment(b, condition[0])]

    def inverse(self, outputs: Tensors, condition: Tensors, remainders: Tensors | None = None) -> Tensors:
        y1, y2 = outputs
        return [y2 - self._increment(y1, condition[0]), y1]

    def rebuild(self, outputs: Tensors, gradients: Tensors, condition: Tensors, remainders: Tensors) -> Rebuilt:
        y1, y2 = outputs
        dy1, dy2 = gradients
        dc, dw = [], []
        size = chunk_size(y1, self.branch_batch)
        for y1_, y2_, dy1_, dy2_, *c in chunks(y1, y2, dy1, dy2, *condition, size=size):
            f, pull = linearise(self.f, y1_, *c)
            y2_.sub_(self._snapped(f))  # in place: y2 turns into a, and below dy1 into the gradient of b
            del f
            (through, *dc_), dw_ = pull(dy2_)
            if through is not None:
                dy1_.add_(through)
            dc.append(dc_)
            dw.append(dw_)
        condition_gradients = [None if parts[0] is None else torch.cat(parts) for parts in zip(*dc, strict=True)]
        # last chunk first: the order in which autograd adds them where activations are stored
        return Rebuilt([y2, y1], [dy2, dy1], condition_gradients, summed(dw[::-1]))

    def _increment(self, b: Tensor, embedding: Tensor) -> Tensor:
        if torch.jit.is_scripting():
            return self._snapped(self.f(b, embedding))
        else:
            return in_chunks(self._increment_of_chunk, b, embedding, size=chunk_size(b, self.branch_batch))[0]

    @torch.jit.unused
    def _increment_of_chunk(self, b: Tensor, embedding: Tensor) -> Tensors:
        return [self._snapped(_same_shape(self.f(b, embedding), b))]

    def _snapped(self, f: Tensor) -> Tensor:
        # in the stream's precision first: bfloat16 cannot represent the grid
        return snap(f if f.dtype == torch.float64 else f.float()) if self.exact else f


def _same_shape(f: Tensor, b: Tensor) -> Tensor:
    if f.shape != b.shape:
        raise ValueError(
            f"the branch of an AdditiveCoupling returned shape {tuple(f.shape)} for an input of {tuple(b.shape)}; "
            f"a branch must keep the shape of its half: check its padding and its number of channels"
        )
    return f
