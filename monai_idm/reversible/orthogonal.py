"""Learned orthogonal maps, whose inverse is their transpose.

Their matrix W is built from a generator, see :mod:`monai_idm.reversible.cayley`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from monai_idm.float32 import full_precision
from monai_idm.reversible.chunks import chunk_size, in_chunks
from monai_idm.reversible.fixed_point import remainder, restore, snap, snap_
from monai_idm.reversible.memory_format import memory_format_of
from monai_idm.reversible.operation import Rebuilt, ReversibleOperation, Tensors

__all__ = ["Orthogonal", "fixed_matrices"]


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


@dataclass(frozen=True)
class _FrozenFrom:
    """The generator that a frozen matrix was built from."""

    parameter: Tensor
    version: int
    address: int
    value: Tensor

    def is_edited(self) -> bool:
        return (self.parameter._version, self.parameter.data_ptr()) != (self.version, self.address)


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
