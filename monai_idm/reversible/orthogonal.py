r"""Learned orthogonal maps, and a mixing of channels by such a map.

An orthogonal matrix is learned through its Cayley transform :math:`W = (I + S)^{-1} (I - S)` of a skew-symmetric
:math:`S`. Its inverse is :math:`W^T`: exact, free, and with all singular values 1, so that rounding does not grow.

Source: learnable orthogonal resampling after Etmann et al. 2020, arXiv:2005.05220.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial, reduce
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from monai_idm.reversible.chunks import chunk_size, chunks, in_chunks
from monai_idm.reversible.fixed_point import remainder, restore, snap, snap_
from monai_idm.reversible.memory_format import from_voxel_rows, is_channels_last, memory_format_of, voxel_rows
from monai_idm.reversible.operation import Rebuilt, ReversibleOperation, Tensors
from monai_idm.reversible.outer_product import outer_product
from monai_idm.reversible.replay import full_precision

__all__ = ["Orthogonal", "OrthogonalMixing", "cayley", "fixed_matrices"]

_VOXELS = 2**18
"""Voxels that are mixed at a time, at most, so that the temporary memory does not grow with the volume."""


def cayley(generator: Tensor) -> Tensor:
    r"""Orthogonal matrices :math:`(I + S)^{-1} (I - S)` with :math:`S = (A - A^T) / 2`; the identity for A = 0.

    Args:
        generator: Any square matrices A, ``(..., n, n)``.
    Returns:
        float64. With 512 channels, a matrix solved for in float32 is 2e-5 off orthogonal; one solved for in float64
        and rounded to float32 is 4e-8 off. ONNX has no linear solver: an exported network computes the matrix from the
        weights by multiplications, just as exactly.
    """
    a = generator.double()
    s = (a - a.transpose(-1, -2)) / 2
    identity = torch.eye(s.shape[-1], dtype=s.dtype, device=s.device)
    if not torch.jit.is_scripting():
        if torch.onnx.is_in_onnx_export():
            return 2 * _newton_inverse(identity + s, identity) - identity
        return _Cayley.apply(identity, s)
    return torch.linalg.solve(identity + s, identity - s)


class Orthogonal(ReversibleOperation):
    """A linear map ``y = W x`` with W orthogonal, so that ``x = W^T y`` and ``dx = W^T dy``.

    A subclass defines W and how it acts on the two halves.

    Args:
        generator: Shape of the parameter from which W is computed.
    """

    frozen: Tensor | None

    def __init__(self, *generator: int) -> None:
        super().__init__()
        self.generator = nn.Parameter(torch.zeros(generator))
        self.register_buffer("frozen", None, persistent=False)
        self._fixed: Tensor | None = None  # the matrix of the block of fixed_matrices
        self._frozen_from: Any = None

    def weights(self) -> list[nn.Parameter]:
        return []  # W is conditioning: it is built outside the node, and autograd takes its gradient to the generator

    def condition(self, embedding: Tensor) -> Tensors:
        if torch.jit.is_scripting():
            return [self.matrix().to(self.generator.dtype)]
        else:
            if self._fixed is not None and not torch.is_grad_enabled():
                return [self._fixed]
            if self.frozen is not None and self._frozen_is_current():
                return [self.frozen]
            with full_precision(self.generator.device):
                return [self.matrix().to(self.generator.dtype)]

    def map(self, inputs: Tensors, condition: Tensors, remainders: Tensors | None = None) -> Tensors:
        if torch.jit.is_scripting():
            outputs = self.multiply(condition[0], inputs)
            return [snap(z) for z in outputs] if self.exact else outputs
        else:
            with full_precision(inputs[0].device):
                if torch.compiler.is_exporting():
                    return self._product(condition[0], inputs)
                outputs = list(_Product.apply(self, condition[0], *inputs))
                if self.exact and remainders is not None:
                    remainders += self._remainders(condition[0], inputs, outputs)
                return outputs

    @torch.jit.unused
    def _product(self, w: Tensor, inputs: Tensors) -> Tensors:
        outputs = self.multiply(w, inputs)
        return [snap_(z) for z in outputs] if self.exact else outputs

    def inverse(self, outputs: Tensors, condition: Tensors, remainders: Tensors | None = None) -> Tensors:
        with full_precision(outputs[0].device):
            inputs = self.multiply_transposed(condition[0], outputs)
            return restore(inputs, remainders) if self.exact else inputs

    def rebuild(self, outputs: Tensors, gradients: Tensors, condition: Tensors, remainders: Tensors) -> Rebuilt:
        (w,) = condition
        with full_precision(w.device):
            inputs = self.undo(w, outputs)
            inputs = restore(inputs, remainders) if self.exact else inputs
            gradients = self._alike(gradients, inputs)
            dw = self.outer(gradients, inputs)
            return Rebuilt(inputs, self.undo(w, gradients), [dw], [])

    @torch.no_grad()
    def _remainders(self, w: Tensor, inputs: Tensors, outputs: Tensors) -> Tensors:
        def of_chunk(*tensors: Tensor) -> Tensors:
            return remainder(tensors[:2], self.multiply_transposed(w, list(tensors[2:])))

        return in_chunks(of_chunk, *inputs, *outputs, size=chunk_size(inputs[0]))

    def gradients(self, w: Tensor, inputs: Tensors, gradients: Tensors) -> tuple[Tensors, Tensor]:
        """Gradients of the inputs and of W."""
        gradients = self._alike(gradients, inputs)
        with full_precision(w.device):
            return self.multiply_transposed(w, gradients), self.outer(gradients, inputs)

    def _alike(self, gradients: Tensors, inputs: Tensors) -> Tensors:
        # in one format: strided operands are summed in another order, so the last bit would depend on the policy
        return [g.contiguous(memory_format=memory_format_of(inputs[0])) for g in gradients]

    def freeze(self) -> None:
        """Build W once and reuse it while the weights stay the same; for a gradient, W is still built from them."""
        self._thaw()
        with torch.no_grad():
            self.frozen = self.condition(self.generator)[0]
        g = self.generator
        self._frozen_from = _FrozenFrom(g, g._version, g.data_ptr(), g.detach().clone())

    def train(self, mode: bool = True) -> "Orthogonal":
        if mode:
            self._thaw()
        return super().train(mode)

    def _apply(self, *args: Any, **kwargs: Any) -> "Orthogonal":
        self._thaw()  # a new type or device: W is then built from the converted weights
        return super()._apply(*args, **kwargs)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._thaw()
        super()._load_from_state_dict(*args, **kwargs)

    def _thaw(self) -> None:
        self.frozen = self._frozen_from = None

    @torch.jit.unused
    def _frozen_is_current(self) -> bool:
        source, g = self._frozen_from, self.generator
        if source is None or source.is_edited():
            return False
        if torch.compiler.is_exporting():  # g is then a placeholder for source.parameter
            return True
        if torch.is_grad_enabled() and g.requires_grad:
            return False
        # compare values, too: a write to .data does not raise the version, and functional_call replaces weights
        same = (g.dtype, g.device) == (source.value.dtype, source.value.device)
        return same and torch.equal(g, source.value)

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
        """W^T y; may overwrite y and empty its list. y may be in a lower precision than W, as gradients may."""
        return self.multiply_transposed(w, [y.to(w.dtype) for y in outputs])

    def outer(self, gradients: Tensors, inputs: Tensors) -> Tensor:
        """dy x^T, the gradient of W."""
        raise NotImplementedError


@contextmanager
def fixed_matrices(network: Any) -> Iterator[None]:
    """Build the orthogonal matrices of a network once for a block without gradients, such as the steps of a sampling.

    Args:
        network: A network, whose weights must not change in the block; for any other callable nothing is fixed.
    """
    modules = network.modules() if isinstance(network, nn.Module) else ()
    # weights that FSDP2 shards are gathered for each pass, and the matrices built from them there
    operations = [
        module
        for module in modules
        if isinstance(module, Orthogonal) and module._fixed is None and not hasattr(module.generator, "to_local")
    ]
    with torch.no_grad():
        for operation in operations:
            operation._fixed = operation.condition(operation.generator)[0]
    try:
        yield
    finally:
        for operation in operations:
            operation._fixed = None


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


@dataclass(frozen=True)
class _FrozenFrom:
    """The generator that a frozen matrix was built from."""

    parameter: Tensor
    version: int
    address: int
    value: Tensor

    def is_edited(self) -> bool:
        return (self.parameter._version, self.parameter.data_ptr()) != (self.version, self.address)


class _Cayley(torch.autograd.Function):
    """W of S. Since (I + S)^-1 = (I + W) / 2, the gradient -(I + W)^T dW (I + W)^T / 2 needs no solver."""

    @staticmethod
    def forward(ctx, identity, s):
        # without linalg.solve's check, for which the host would wait: I + S is never singular
        w = torch.linalg.solve_ex(identity + s, identity - s)[0]
        ctx.save_for_backward(w)
        return w

    @staticmethod
    @once_differentiable
    def backward(ctx, dw):
        doubled = ctx.saved_tensors[0].mT.clone()  # twice (I + S)^-T
        doubled.diagonal(dim1=-2, dim2=-1).add_(1)
        return None, doubled @ dw @ doubled / -2


@torch.jit.unused
def _newton_inverse(a: Tensor, identity: Tensor) -> Tensor:
    r"""The inverse of :math:`A = I + S` by multiplications only: Newton's :math:`X \leftarrow X (2 I - A X)`.

    The eigenvalues of :math:`A A^T` lie between 1 and :math:`b = \|A\|_1 \|A\|_\infty`; 32 steps are enough for any b
    below :math:`10^8`.
    """
    b = a.abs().sum(-1).amax(-1) * a.abs().sum(-2).amax(-1)
    x = a.transpose(-1, -2) * (2 / (1 + b))[..., None, None]
    for _ in range(32):
        x = x @ (2 * identity - a @ x)
    return x


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


class _Product(torch.autograd.Function):
    """``W x``; its gradients are computed as in ``rebuild``, hence equal bit for bit."""

    @staticmethod
    def forward(ctx, operation, w, *inputs):
        ctx.operation = operation
        ctx.save_for_backward(w, *inputs)
        # detached: the kernel of torch.matmul, and so the last bit, depends on requires_grad
        return tuple(operation._product(w.detach(), [x.detach() for x in inputs]))

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients):
        w, *inputs = (t.detach() for t in ctx.saved_tensors)
        dx, dw = ctx.operation.gradients(w, inputs, gradients)
        return None, dw, *dx
