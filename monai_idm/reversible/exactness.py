"""Gradients of any operation that are equal bit for bit in every policy, or an error that names the operation.

A rebuilt operation differentiates ``map`` at the rebuilt inputs, detached from the rest of the graph. Where activations
are stored, autograd may choose other kernels and sum in another order. So where ``exact`` is set and an operation does
not override ``rebuild``, every policy computes its gradients with the same code at the same inputs: they are then equal
bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from monai_idm.reversible.inverse import Inverse
from monai_idm.reversible.operation import ReversibleOperation, Tensors, map_weights, pulled_back
from monai_idm.reversible.replay import Replay

__all__ = ["differentiates_alike", "exact_map", "is_known", "require_exact"]

_TESTED_PACKAGES = (f"{__name__.partition('.')[0]}.", "torch.nn.")


def differentiates_alike(operation: ReversibleOperation) -> bool:
    """Whether an operation needs :func:`exact_map` when its activations are not rebuilt."""
    return operation.exact and type(operation).rebuild is ReversibleOperation.rebuild


def exact_map(operation: ReversibleOperation, inputs: Tensors, condition: Tensors) -> Tensors:
    """``operation.map``, differentiated by the code of the default ``rebuild``; keeps only its inputs."""
    weights = map_weights(operation)
    replay = Replay.capture(operation, inputs[0].device)
    return list(_Exact.apply(operation, replay, list(weights), len(inputs), *inputs, *condition, *weights.values()))


def is_known(operation: ReversibleOperation) -> bool:
    """Whether an operation has passed :func:`require_exact`, or is made of this package and torch, which are tested."""
    inner = _without_inverse(operation)
    tested = all(type(m).__module__.startswith(_TESTED_PACKAGES) for m in inner.modules())
    return _passed_flag(operation) in vars(inner) or tested


def require_exact(operation: ReversibleOperation, name: str, inputs: Tensors, condition: Tensors) -> None:
    """Run an operation forward, rebuild it, and require the result to equal that of stored activations bit for bit.

    Args:
        operation: An operation with ``exact`` set.
        name: Name of the operation in an error message.
        inputs: Inputs of ``map``, on the grid.
        condition: What ``operation.condition`` returned.
    Raises:
        ValueError: If inputs or gradients differ.
    """
    x, c = [t.detach() for t in inputs], [t.detach() for t in condition]
    replay = Replay.capture(operation, x[0].device)
    remainders: list[Tensor] = []
    with torch.no_grad(), replay.precision(), replay.random():
        y = operation.map(list(x), c, remainders)
    gradients = [torch.linspace(-1, 1, t.numel(), dtype=t.dtype, device=t.device).view_as(t) for t in y]
    with torch.no_grad(), replay.precision(), replay.random():
        rebuilt = operation.rebuild([t.clone() for t in y], [g.clone() for g in gradients], c, remainders)
    remedy = "in map, snap what leaves the grid, and add to remainders what the inverse misses"
    _compare(name, "inputs", rebuilt.inputs, x, remedy)
    leaves = [t.clone().requires_grad_(t.is_floating_point()) for t in (*x, *c)]
    weights = operation.weights()
    with torch.enable_grad(), replay.precision(), replay.random():
        stored = stored_map(operation, [t.view_as(t) for t in leaves[: len(x)]], leaves[len(x) :])
    wanted = [t for t in (*leaves, *weights) if t.requires_grad]
    differentiable = [(t, g) for t, g in zip(stored, gradients, strict=True) if t.requires_grad]
    if differentiable and wanted:
        outputs, cotangents = zip(*differentiable, strict=True)
        by_autograd = dict(
            zip(map(id, wanted), torch.autograd.grad(outputs, wanted, cotangents, allow_unused=True), strict=True)
        )
        actual = [*rebuilt.input_gradients, *rebuilt.condition_gradients, *rebuilt.weight_gradients]
        expected = [by_autograd.get(id(t)) for t in (*leaves, *weights)]
        _compare(name, "gradients", actual, expected, "use the rebuild of ReversibleOperation, which is exact")
    setattr(_without_inverse(operation), _passed_flag(operation), True)


def stored_map(operation: ReversibleOperation, inputs: Tensors, condition: Tensors) -> Tensors:
    """The policy that stores activations: ``map``, or :func:`exact_map` where exactness needs it."""
    exactly = differentiates_alike(operation) and torch.is_grad_enabled() and not torch.compiler.is_exporting()
    return exact_map(operation, inputs, condition) if exactly else operation.map(inputs, condition)


class _Exact(torch.autograd.Function):
    @staticmethod
    def forward(ctx, operation, replay, names, num_inputs, *tensors):
        ctx.operation, ctx.replay, ctx.names, ctx.num_inputs = operation, replay, names, num_inputs
        ctx.save_for_backward(*tensors)
        x, c = tensors[:num_inputs], tensors[num_inputs : len(tensors) - len(names)]
        with replay.precision():  # detached, as in the policy that rebuilds
            return tuple(operation.map([t.detach() for t in x], [t.detach() for t in c]))

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients):
        tensors, count = ctx.saved_tensors, len(ctx.names)
        weights = dict(zip(ctx.names, tensors[len(tensors) - count :], strict=True))
        x, *c = (t.detach() for t in tensors[: len(tensors) - count])
        x, c = [x, *c][: ctx.num_inputs], [x, *c][ctx.num_inputs :]
        with ctx.replay.precision(), ctx.replay.random():
            dx, dc, dw = pulled_back(ctx.operation, weights, x, c, gradients)
        return None, None, None, None, *dx, *dc, *dw


def _compare(
    name: str, what: str, actual: Sequence[Tensor | None], expected: Sequence[Tensor | None], remedy: str
) -> None:
    unequal = sum(not _equal(a, b) for a, b in zip(actual, expected, strict=True))
    if unequal:
        raise ValueError(
            f"{unequal} of {len(expected)} {what} of {name} are not rebuilt bit for bit, as exact precision "
            f"requires: {remedy}; or choose another precision"
        )


def _equal(a: Tensor | None, b: Tensor | None) -> bool:
    if a is None or b is None:  # a missing gradient equals a gradient of zeros
        return all(t is None or not t.any() for t in (a, b))
    return torch.equal(a, b)


def _without_inverse(operation: ReversibleOperation) -> ReversibleOperation:
    return operation.operation if isinstance(operation, Inverse) else operation


def _passed_flag(operation: ReversibleOperation) -> str:
    return "_inverse_is_exact" if isinstance(operation, Inverse) else "_is_exact"
