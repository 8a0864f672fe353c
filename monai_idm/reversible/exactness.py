"""Exact precision of operations that know nothing of each other: equal gradients in every policy, or a refusal.

Rebuilding differentiates ``map`` at the rebuilt inputs, detached from all else. Autograd, where activations are stored,
may take other kernels and sum in another order. So where ``exact`` is set and an operation has no ``rebuild`` of its
own, every policy computes its gradients by the same code at the same inputs, which then are equal bit for bit.
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


_OURS = (f"{__name__.partition('.')[0]}.", "torch.nn.")


def differentiates_alike(operation: ReversibleOperation) -> bool:
    """Whether an operation needs :func:`exact_map` where its activations are not rebuilt."""
    return operation.exact and type(operation).rebuild is ReversibleOperation.rebuild


def exact_map(operation: ReversibleOperation, inputs: Tensors, condition: Tensors) -> Tensors:
    """``operation.map``, with gradients as the common ``rebuild`` computes them; inputs are kept, nothing else."""
    weights = map_weights(operation)
    replay = Replay.capture(operation, inputs[0].device)
    return list(_Exact.apply(operation, replay, list(weights), len(inputs), *inputs, *condition, *weights.values()))


def is_known(operation: ReversibleOperation) -> bool:
    """Whether an operation and its branches are ours, whose tests vouch for them, or were found exact before."""
    inner = _undone(operation)
    return _mark(operation) in vars(inner) or all(type(m).__module__.startswith(_OURS) for m in inner.modules())


def require_exact(operation: ReversibleOperation, name: str, inputs: Tensors, condition: Tensors) -> None:
    """Run an operation forward, rebuild it, and compare with stored activations, to the last bit.

    Args:
        operation: An operation with ``exact`` set.
        name: What it is called in an error.
        inputs: On the grid.
        condition: As of ``operation.condition``.
    Raises:
        ValueError: If inputs or gradients differ.
    """
    x, c = [t.detach() for t in inputs], [t.detach() for t in condition]
    replay = Replay.capture(operation, x[0].device)
    remainders: list[Tensor] = []
    with torch.no_grad(), replay.autocast(), replay.random():
        y = operation.map(list(x), c, remainders)
    gradients = [torch.linspace(-1, 1, t.numel(), dtype=t.dtype, device=t.device).view_as(t) for t in y]
    with torch.no_grad(), replay.autocast(), replay.random():
        rebuilt = operation.rebuild([t.clone() for t in y], list(gradients), c, remainders)
    _compare(name, "inputs", rebuilt.inputs, x, "snap what leaves the grid in map, and keep what its inverse misses")
    leaves = [t.clone().requires_grad_(t.is_floating_point()) for t in (*x, *c)]
    weights = operation.weights()
    with torch.enable_grad(), replay.autocast(), replay.random():
        stored = stored_map(operation, [t.view_as(t) for t in leaves[: len(x)]], leaves[len(x) :])
    wanted = [t for t in (*leaves, *weights) if t.requires_grad]
    reached = [(t, g) for t, g in zip(stored, gradients, strict=True) if t.requires_grad]
    if reached and wanted:
        outputs, cotangents = zip(*reached, strict=True)
        by_autograd = dict(
            zip(map(id, wanted), torch.autograd.grad(outputs, wanted, cotangents, allow_unused=True), strict=True)
        )
        found = [*rebuilt.input_gradients, *rebuilt.condition_gradients, *rebuilt.weight_gradients]
        expected = [by_autograd.get(id(t)) for t in (*leaves, *weights)]
        _compare(name, "gradients", found, expected, "leave rebuild to ReversibleOperation, which is exact")
    setattr(_undone(operation), _mark(operation), True)


def stored_map(operation: ReversibleOperation, inputs: Tensors, condition: Tensors) -> Tensors:
    """What stands for ``map`` where activations are stored."""
    alike = differentiates_alike(operation) and torch.is_grad_enabled() and not torch.compiler.is_exporting()
    return exact_map(operation, inputs, condition) if alike else operation.map(inputs, condition)


class _Exact(torch.autograd.Function):
    @staticmethod
    def forward(ctx, operation, replay, names, num_inputs, *tensors):
        ctx.operation, ctx.replay, ctx.names, ctx.num_inputs = operation, replay, names, num_inputs
        ctx.save_for_backward(*tensors)
        x, c = tensors[:num_inputs], tensors[num_inputs : len(tensors) - len(names)]
        with replay.autocast():  # detached, as where activations are rebuilt
            return tuple(operation.map([t.detach() for t in x], [t.detach() for t in c]))

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients):
        tensors, count = ctx.saved_tensors, len(ctx.names)
        weights = dict(zip(ctx.names, tensors[len(tensors) - count :], strict=True))
        x, *c = (t.detach() for t in tensors[: len(tensors) - count])
        x, c = [x, *c][: ctx.num_inputs], [x, *c][ctx.num_inputs :]
        with ctx.replay.autocast(), ctx.replay.random():
            dx, dc, dw = pulled_back(ctx.operation, weights, x, c, gradients)
        return None, None, None, None, *dx, *dc, *dw


def _compare(name: str, what: str, found: Sequence[Tensor | None], expected: Sequence[Tensor | None], way: str) -> None:
    unequal = sum(not _same(a, b) for a, b in zip(found, expected, strict=True))
    if unequal:
        raise ValueError(
            f"{unequal} of {len(expected)} {what} of {name} are not rebuilt to the last bit, which exact precision "
            f"promises: {way}; or choose another precision"
        )


def _same(a: Tensor | None, b: Tensor | None) -> bool:
    if a is None or b is None:  # no gradient is a gradient of zero
        return all(t is None or not t.any() for t in (a, b))
    return torch.equal(a, b)


def _undone(operation: ReversibleOperation) -> ReversibleOperation:
    return operation.operation if isinstance(operation, Inverse) else operation


def _mark(operation: ReversibleOperation) -> str:
    return "_inverse_is_exact" if isinstance(operation, Inverse) else "_is_exact"
