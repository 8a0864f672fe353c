r"""Orthogonal maps: mixing of channels, resampling by two, and the split and merge around them.

An orthogonal matrix is learned through its Cayley transform :math:`W = (I + S)^{-1} (I - S)` of a skew-symmetric
:math:`S`. Its inverse is :math:`W^T`: exact, free, and with all singular values 1, so that rounding does not grow.

Source: learnable orthogonal resampling after Etmann et al. 2020, arXiv:2005.05220.
"""

from __future__ import annotations

from functools import reduce

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from monai_idm.reversible.chunks import chunk_size, chunks
from monai_idm.reversible.fixed_point import remainder, restore, snap
from monai_idm.reversible.operation import Rebuilt, ReversibleOperation, Tensors
from monai_idm.reversible.replay import full_precision

__all__ = ["Merge", "OrthogonalDownsample", "OrthogonalMixing", "OrthogonalUpsample", "Split", "cayley"]


def cayley(generator: Tensor) -> Tensor:
    r"""Orthogonal matrices :math:`(I + S)^{-1} (I - S)` with :math:`S = (A - A^T) / 2`; the identity for A = 0.

    Args:
        generator: Any square matrices A, ``(..., n, n)``.
    Returns:
        float64: solved in float32, 512 channels are 2e-5 off orthogonal; solved in float64 and rounded, 4e-8.
    """
    a = generator.double()
    s = (a - a.mT) / 2
    identity = torch.eye(s.shape[-1], dtype=s.dtype, device=s.device)
    return torch.linalg.solve(identity + s, identity - s)


class Split(ReversibleOperation):
    r"""Set channels of both halves aside for the skip connection.

    .. math:: (a, b) \mapsto (a_{skip}, b_{skip}, a_{low}, b_{low})

    Args:
        skip_channels: Of each half.
    """

    num_outputs = 4

    def __init__(self, skip_channels: int) -> None:
        super().__init__()
        self.skip_channels = skip_channels

    def map(self, inputs: Tensors, condition: Tensors, kept: list[Tensor] | None = None) -> Tensors:
        a, b = inputs
        k = self.skip_channels
        # clones: a view would pin the storage of the whole
        return a[:, :k].clone(), b[:, :k].clone(), a[:, k:].clone(), b[:, k:].clone()

    def inverse(self, outputs: Tensors, condition: Tensors, kept: Tensors = ()) -> Tensors:
        a_skip, b_skip, a_low, b_low = outputs
        return torch.cat((a_skip, a_low), 1), torch.cat((b_skip, b_low), 1)

    def rebuild(self, outputs: Tensors, gradients: Tensors, condition: Tensors, kept: Tensors) -> Rebuilt:
        return Rebuilt(self.inverse(outputs, ()), self.inverse(gradients, ()), (), ())


class Merge(ReversibleOperation):
    r"""Bring the skip connection back: eq. 2 of the paper, for both halves. The reverse of :class:`Split`.

    .. math:: (a_{skip}, b_{skip}, a_{low}, b_{low}) \mapsto (a, b)
    """

    num_inputs = 4

    def __init__(self, skip_channels: int) -> None:
        super().__init__()
        self.split = Split(skip_channels)

    def map(self, inputs: Tensors, condition: Tensors, kept: list[Tensor] | None = None) -> Tensors:
        return self.split.inverse(inputs, condition)

    def inverse(self, outputs: Tensors, condition: Tensors, kept: Tensors = ()) -> Tensors:
        return self.split.map(outputs, condition)

    def rebuild(self, outputs: Tensors, gradients: Tensors, condition: Tensors, kept: Tensors) -> Rebuilt:
        return Rebuilt(self.inverse(outputs, ()), self.inverse(gradients, ()), (), ())


class Orthogonal(ReversibleOperation):
    """A linear map ``y = W x`` with W orthogonal, so that ``x = W^T y`` and ``dx = W^T dy``.

    A subclass says what W is and how it acts on the two halves.
    """

    generator: nn.Parameter

    def weights(self) -> list[nn.Parameter]:
        return []  # W is conditioning: built once, outside, where autograd takes its gradient to the generator

    def condition(self, embedding: Tensor) -> tuple[Tensor, ...]:
        with full_precision(self.generator.device):
            return (self.matrix().to(self.generator.dtype),)

    def map(self, inputs: Tensors, condition: Tensors, kept: list[Tensor] | None = None) -> Tensors:
        (w,) = condition
        with full_precision(w.device):
            if not self.exact:
                return self.multiply(w, inputs)
            outputs = _SnappedProduct.apply(self, w, *inputs)
            if kept is not None:
                kept += remainder(inputs, self.multiply_transposed(w, outputs))
            return outputs

    def inverse(self, outputs: Tensors, condition: Tensors, kept: Tensors = ()) -> Tensors:
        (w,) = condition
        with full_precision(w.device):
            inputs = self.multiply_transposed(w, outputs)
            return restore(inputs, kept) if self.exact else inputs

    def rebuild(self, outputs: Tensors, gradients: Tensors, condition: Tensors, kept: Tensors) -> Rebuilt:
        (w,) = condition
        with full_precision(w.device):
            inputs = self.undo(w, outputs)
            inputs = restore(inputs, kept) if self.exact else inputs
        dx, dw = self.gradients(w, inputs, gradients)
        return Rebuilt(inputs, dx, (dw,), ())

    def gradients(self, w: Tensor, inputs: Tensors, gradients: Tensors) -> tuple[Tensors, Tensor]:
        """Those of the inputs and of W."""
        # contiguous: strided operands are summed in another order, and the last bit would depend on the policy
        gradients = tuple(g.contiguous() for g in gradients)
        with full_precision(w.device):
            return self.multiply_transposed(w, gradients), self.outer(gradients, inputs)

    def matrix(self) -> Tensor:
        """W in float64, from the generator."""
        raise NotImplementedError

    def multiply(self, w: Tensor, halves: Tensors) -> Tensors:
        """W x."""
        raise NotImplementedError

    def multiply_transposed(self, w: Tensor, halves: Tensors) -> Tensors:
        """W^T y."""
        raise NotImplementedError

    def undo(self, w: Tensor, outputs: Tensors) -> Tensors:
        """W^T y, where y may be overwritten."""
        return self.multiply_transposed(w, outputs)

    def outer(self, gradients: Tensors, inputs: Tensors) -> Tensor:
        """dy x^T, the gradient of W."""
        raise NotImplementedError


class OrthogonalMixing(Orthogonal):
    r"""Orthogonal 1 x 1 convolution over the channels of both halves, so that every channel can take either way.

    .. math:: \binom{y_1}{y_2} = W \binom{a}{b}

    Args:
        channels: C, of both halves together.
    Shape: halves ``(B, C/2, *spatial)`` in and out.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.generator = nn.Parameter(torch.zeros(channels, channels))

    def matrix(self) -> Tensor:
        return cayley(self.generator)

    def multiply(self, w: Tensor, halves: Tensors) -> Tensors:
        parts = [_blocks(w, *part) for part in chunks(*halves, size=chunk_size(halves[0]))]
        return parts[0] if len(parts) == 1 else tuple(torch.cat(half) for half in zip(*parts, strict=True))

    def multiply_transposed(self, w: Tensor, halves: Tensors) -> Tensors:
        return self.multiply(w.mT, halves)

    def undo(self, w: Tensor, outputs: Tensors) -> Tensors:
        for part in chunks(*outputs, size=chunk_size(outputs[0])):
            for y, x in zip(part, _blocks(w.mT, *part), strict=True):
                y.copy_(x)
        return outputs

    def outer(self, gradients: Tensors, inputs: Tensors) -> Tensor:
        transposed = [x.flatten(2).mT for x in inputs]
        rows = [torch.cat([(dy.flatten(2) @ xt).sum(0) for xt in transposed], 1) for dy in gradients]
        return torch.cat(rows, 0)


def _blocks(w: Tensor, a: Tensor, b: Tensor) -> Tensors:
    """W times both halves, which are never concatenated."""
    (w11, w12), (w21, w22) = (rows.chunk(2, 1) for rows in w.chunk(2, 0))
    a_, b_ = a.flatten(2), b.flatten(2)
    return (w11 @ a_ + w12 @ b_).reshape(a.shape), (w21 @ a_ + w22 @ b_).reshape(a.shape)


class OrthogonalDownsample(Orthogonal):
    r"""Halve every side: a strided convolution whose kernel is one orthogonal matrix per channel.

    The ``2 ** spatial_dims`` voxels of a cell become as many channels; nothing is lost. The matrices start as the
    Haar wavelet transform.

    Args:
        spatial_dims: 2 or 3.
        channels: Of both halves together, before.
    Shape: halves ``(B, C/2, *spatial)`` to ``(B, C/2 * 2 ** spatial_dims, *spatial / 2)``.
    """

    def __init__(self, spatial_dims: int, channels: int) -> None:
        super().__init__()
        self.spatial_dims = spatial_dims
        self.cell = 2**spatial_dims
        self.generator = nn.Parameter(torch.zeros(channels, self.cell, self.cell))

    def matrix(self) -> Tensor:
        haar = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64, device=self.generator.device) / 2**0.5
        return cayley(self.generator) @ reduce(torch.kron, [haar] * self.spatial_dims)

    def multiply(self, w: Tensor, halves: Tensors) -> Tensors:
        return tuple(self._bands(k @ self._cells(x), x) for k, x in zip(w.chunk(2), halves, strict=True))

    def multiply_transposed(self, w: Tensor, halves: Tensors) -> Tensors:
        return tuple(self._voxels(k.mT @ self._columns(y), y) for k, y in zip(w.chunk(2), halves, strict=True))

    def outer(self, gradients: Tensors, inputs: Tensors) -> Tensor:
        pairs = zip(gradients, inputs, strict=True)
        return torch.cat([(self._columns(dy) @ self._cells(x).mT).sum(0) for dy, x in pairs])

    # two layouts of the fine and of the coarse tensor meet in "columns" (B, C, cell, N): one cell in a column

    def _cells(self, fine: Tensor) -> Tensor:
        batch, channels, *sides = fine.shape
        d = self.spatial_dims
        split = fine.reshape(batch, channels, *(n for side in sides for n in (side // 2, 2)))
        order = (0, 1, *(3 + 2 * i for i in range(d)), *(2 + 2 * i for i in range(d)))
        return split.permute(order).reshape(batch, channels, self.cell, -1)

    def _voxels(self, columns: Tensor, coarse: Tensor) -> Tensor:
        batch, channels = columns.shape[:2]
        sides = coarse.shape[2:]
        d = self.spatial_dims
        split = columns.reshape(batch, channels, *[2] * d, *sides)
        order = (0, 1, *(axis for i in range(d) for axis in (2 + d + i, 2 + i)))
        return split.permute(order).reshape(batch, channels, *(2 * side for side in sides))

    def _columns(self, coarse: Tensor) -> Tensor:
        return coarse.reshape(coarse.shape[0], -1, self.cell, coarse.shape[2:].numel())

    def _bands(self, columns: Tensor, fine: Tensor) -> Tensor:
        return columns.reshape(columns.shape[0], -1, *(side // 2 for side in fine.shape[2:]))


class OrthogonalUpsample(OrthogonalDownsample):
    """Double every side: the reverse of :class:`OrthogonalDownsample`, with matrices of its own.

    Args:
        spatial_dims: 2 or 3.
        channels: Of both halves together, after.
    """

    def multiply(self, w: Tensor, halves: Tensors) -> Tensors:
        return super().multiply_transposed(w, halves)

    def multiply_transposed(self, w: Tensor, halves: Tensors) -> Tensors:
        return super().multiply(w, halves)

    def outer(self, gradients: Tensors, inputs: Tensors) -> Tensor:
        return super().outer(inputs, gradients)


class _SnappedProduct(torch.autograd.Function):
    """``snap(W x)``; its gradients are computed as ``rebuild`` computes them, hence equal bit for bit."""

    @staticmethod
    def forward(ctx, operation, w, *inputs):
        ctx.operation = operation
        ctx.save_for_backward(w, *inputs)
        # detached: torch.matmul chooses its kernel by requires_grad, and with it the last bit
        return tuple(snap(z) for z in operation.multiply(w.detach(), [x.detach() for x in inputs]))

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients):
        w, *inputs = (t.detach() for t in ctx.saved_tensors)
        dx, dw = ctx.operation.gradients(w, inputs, gradients)
        return None, dw, *dx
