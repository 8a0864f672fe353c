"""The base class of invertible operations, and the differentiation that rebuilding needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call

from monai_idm.reversible.random_state import random_states, restored_random_states

__all__ = [
    "Linearised",
    "Policy",
    "Rebuilt",
    "ReversibleOperation",
    "Tensors",
    "linearise",
    "map_weights",
    "pulled_back",
    "summed",
]

Tensors = list[Tensor]  # not Sequence, which TorchScript does not support


class Rebuilt(NamedTuple):
    """What one operation returns in the backward pass."""

    inputs: Tensors
    input_gradients: Tensors
    condition_gradients: Sequence[Tensor | None]
    weight_gradients: Sequence[Tensor | None]


class ReversibleOperation(nn.Module):
    """An invertible map between lists of tensors.

    A subclass defines ``map`` and, below it, ``inverse``. It may override ``rebuild`` with a cheaper one: the default
    inverts first and then runs the map again to differentiate it.

    Where ``exact`` is set, inputs and outputs lie on a grid (``fixed_point.py``). A map that leaves the grid snaps its
    outputs and adds to ``remainders`` what its inverse will miss. Gradients must then be equal bit for bit in every
    policy. The default ``rebuild`` ensures that (``exactness.py``); an override has to ensure it itself. An operation
    that is not exact is refused in its first training step.

    Call it as ``operation(inputs, embedding, policy)``, so that hooks and wrappers of the module see every pass.
    """

    __constants__ = ("num_inputs", "num_outputs")  # for TorchScript

    num_inputs = 2
    num_outputs = 2
    exact = False

    def condition(self, embedding: Tensor) -> Tensors:
        """Tensors that ``map`` and ``inverse`` depend on besides inputs and weights; they receive gradients."""
        return []

    def weights(self) -> list[nn.Parameter]:
        """The parameters read by ``map``, in the order in which ``rebuild`` returns their gradients."""
        return list(self.parameters())

    def map(self, inputs: Tensors, condition: Tensors, remainders: Tensors | None = None) -> Tensors:
        raise NotImplementedError(f"{type(self).__name__} has no map")

    def inverse(self, outputs: Tensors, condition: Tensors, remainders: Tensors | None = None) -> Tensors:
        raise NotImplementedError(f"{type(self).__name__} has no inverse")

    def rebuild(self, outputs: Tensors, gradients: Tensors, condition: Tensors, remainders: Tensors) -> Rebuilt:
        """Inputs and gradients from outputs and their gradients.

        Args:
            outputs: What ``map`` returned; list and tensors may be overwritten.
            gradients: dL/d(output), one per output, perhaps in a lower precision; list and tensors may be overwritten.
            condition: The conditioning that ``map`` received.
            remainders: What ``map`` added to its ``remainders``.
        """
        device, weights = outputs[0].device, map_weights(self)
        states = random_states(self, device)
        inputs = self.inverse(outputs, condition, remainders)
        # the inverse has drawn the random numbers of map, and map must now draw the same ones again
        with restored_random_states(states, device):
            dx, dc, dw = pulled_back(self, weights, inputs, condition, gradients)
        gradient_of = dict(zip(weights.values(), dw, strict=True))
        return Rebuilt(inputs, dx, dc, [gradient_of[w] for w in self.weights()])

    @torch.jit.unused
    def forward(self, inputs: Tensors, embedding: Tensor, policy: Policy) -> Tensors:
        return policy(self, inputs, self.condition(embedding))


class Policy(Protocol):
    """A way to run an operation so that it can be differentiated."""

    def __call__(self, operation: ReversibleOperation, inputs: Tensors, condition: Tensors) -> Tensors: ...


class Linearised(NamedTuple):
    """A module's value at a point, and the transpose of its derivative there."""

    value: Tensor
    pull: Callable[..., tuple[list[Tensor | None], list[Tensor | None]]]


def linearise(module: nn.Module, *inputs: Tensor, **constants: Any) -> Linearised:
    """Evaluate a module once, for its value and for its vector-Jacobian product.

    Args:
        module: A module with no state other than its parameters.
        inputs: Its tensor arguments.
        constants: Its other arguments.
    Returns:
        ``value``, detached, and ``pull(cotangent)``, which returns the gradients of the inputs and of the
        parameters (None for those that the value does not depend on) and may be called once.
    """
    return _linearise(module, dict(module.named_parameters()), inputs, constants)


def pulled_back(
    operation: ReversibleOperation,
    weights: Mapping[str, Tensor],
    inputs: Tensors,
    condition: Tensors,
    gradients: Sequence[Tensor],
) -> tuple[list[Tensor], list[Tensor | None], list[Tensor | None]]:
    """Run ``map`` again and return the gradients of the operation's inputs, conditioning and weights.

    Args:
        operation: The operation.
        weights: Its parameters, under the names that :func:`map_weights` uses.
        inputs: Inputs of ``map``.
        condition: Conditioning of ``map``.
        gradients: dL/d(output), one per output.
    """
    n = len(inputs)
    flat, weight_gradients = _linearise(_Map(operation, n), weights, (*inputs, *condition), {}).pull(*gradients)
    return _zeros_for_none(flat[:n], inputs), flat[n:], weight_gradients


def map_weights(operation: ReversibleOperation) -> dict[str, Tensor]:
    """All parameters of an operation by name, for :func:`pulled_back`."""
    return dict(_Map(operation, 0).named_parameters())


def _linearise(
    module: nn.Module, parameters: Mapping[str, Tensor], inputs: Sequence[Tensor], constants: Mapping[str, Any]
) -> Linearised:
    # detached aliases: hooks of the user's parameters fire once, when autograd accumulates what we return
    weights = {name: p.detach().requires_grad_(p.requires_grad) for name, p in parameters.items()}
    leaves = [x.detach().requires_grad_(x.is_floating_point()) for x in inputs]
    with torch.enable_grad():
        # views: the hooks of FLOP counters reject a leaf that requires a gradient
        value = functional_call(module, weights, tuple(x.expand_as(x) for x in leaves), dict(constants))

        # not the values themselves, which the caller may free before it calls pull
        values = [_Reached.apply(v, v.dtype) for v in ((value,) if isinstance(value, Tensor) else value)]

    def pull(*cotangents: Tensor) -> tuple[list[Tensor | None], list[Tensor | None]]:
        with torch.enable_grad():
            pairs = [(v, g) for v, g in zip(values, cotangents, strict=True) if v.requires_grad]
            reached = [v if v.dtype == g.dtype else _Reached.apply(v, g.dtype) for v, g in pairs]
        wanted = [t for t in (*leaves, *weights.values()) if t.requires_grad]
        if not reached or not wanted:
            return [None] * len(leaves), [None] * len(weights)
        with torch.autocast(wanted[0].device.type, enabled=False):  # as in a backward pass that autograd runs itself
            gradients = torch.autograd.grad(reached, wanted, [g for _, g in pairs], allow_unused=True)
        gradient_of = dict(zip(map(id, wanted), gradients, strict=True))
        return [gradient_of.get(id(t)) for t in leaves], [gradient_of.get(id(t)) for t in weights.values()]

    return Linearised(value.detach() if isinstance(value, Tensor) else value, pull)


def summed(terms: Sequence[Sequence[Tensor | None]]) -> list[Tensor | None]:
    """The sum of several lists of gradients, one for each chunk or half-step; None where all are None."""
    total = list(terms[0])
    for term in terms[1:]:
        pairs = {i: (a, b) for i, (a, b) in enumerate(zip(total, term, strict=True)) if a is not None and b is not None}
        total = [b if a is None else a for a, b in zip(total, term, strict=True)]
        if pairs:  # one kernel for all of them on CUDA
            sums = torch._foreach_add([a for a, _ in pairs.values()], [b for _, b in pairs.values()])
            for i, t in zip(pairs, sums, strict=True):
                total[i] = t
    return total


def described(operation: ReversibleOperation, position: int) -> str:
    """An operation of a chain, for an error message."""
    return f"operation {position} of the chain, {type(operation).__name__}"


class _Reached(torch.autograd.Function):
    """A tensor without memory in the place of another, for a gradient that may be of another precision.

    Autograd would keep a converted copy of a gradient that it is given until the end; that made here is freed early.
    """

    @staticmethod
    def forward(ctx, tensor, dtype):
        ctx.dtype = tensor.dtype
        return tensor.new_empty((), dtype=dtype).expand(tensor.shape)

    @staticmethod
    def backward(ctx, gradient):
        return gradient.to(ctx.dtype), None


class _Map(nn.Module):
    """``operation.map`` as a module with a flat list of arguments, for :func:`pulled_back`."""

    def __init__(self, operation: ReversibleOperation, num_inputs: int) -> None:
        super().__init__()
        self.operation = operation
        self.num_inputs = num_inputs

    def forward(self, *tensors: Tensor) -> Tensors:
        return self.operation.map(list(tensors[: self.num_inputs]), list(tensors[self.num_inputs :]))


def _zeros_for_none(gradients: Sequence[Tensor | None], like: Tensors) -> list[Tensor]:
    return [torch.zeros_like(x) if g is None else g for g, x in zip(gradients, like, strict=True)]
