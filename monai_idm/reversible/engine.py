r"""Rebuild activations in the backward pass instead of storing them.

A reversible chain is a program for a small stack machine. Operation :math:`k` takes its inputs :math:`x` from the
top of a stack of tensors and puts its outputs :math:`y` there:

.. math:: y = \mathrm{op}_k(x; c, \theta), \qquad x = \mathrm{op}_k^{-1}(y; c, \theta)

with the conditioning :math:`c` (timestep embedding, orthogonal matrices) and the weights :math:`\theta`. A skip
connection is nothing but a tensor that waits lower in the stack. Forward keeps only the stack at the exit. Backward
plays the program in reverse on a :class:`Tape`: each operation takes its :math:`y` from the tape, leaves its
:math:`x` there, and turns :math:`dL/dy` into :math:`dL/dx`, :math:`dL/dc` and :math:`dL/d\theta`.

Every operation is an autograd node of its own, so its parameter gradients are complete, and can be consumed and
freed, before the next operation runs.

Source: the tape-free form for residual networks is Gomez et al. 2017, arXiv:1707.04585; the invertible U-Net is
Etmann et al. 2020, arXiv:2005.05220.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from monai_idm.reversible.fixed_point import snap
from monai_idm.reversible.replay import Replay

__all__ = [
    "ACTIVATIONS",
    "Linearised",
    "Rebuilt",
    "ReversibleOperation",
    "ReversibleSequence",
    "linearise",
]

Tensors = Sequence[Tensor]

ACTIVATIONS = ("rebuilt", "checkpointed", "stored")


class Rebuilt(NamedTuple):
    """What one operation gives back in the backward pass."""

    inputs: Tensors
    input_gradients: Tensors
    condition_gradients: Sequence[Tensor | None]
    weight_gradients: Sequence[Tensor | None]


class ReversibleOperation(nn.Module):
    """An invertible map between tuples of tensors.

    A subclass gives ``map`` and, below it, ``inverse``. It may give a ``rebuild`` that is cheaper than the one here,
    which inverts first and then runs the map once more to differentiate it.

    Where ``exact`` is set, inputs and outputs lie on a grid (``fixed_point.py``). A map that leaves the grid snaps its
    outputs and adds to ``kept`` what its inverse will miss.

    Call it as ``operation(inputs, embedding, policy)``: hooks, and whatever wraps the module, then see every pass.
    """

    num_inputs = 2
    num_outputs = 2
    exact = False

    def condition(self, embedding: Tensor) -> tuple[Tensor, ...]:
        """Tensors that ``map`` and ``inverse`` depend on besides inputs and weights; they receive gradients."""
        return ()

    def weights(self) -> list[nn.Parameter]:
        """The parameters read by ``map``, in the order in which ``rebuild`` returns their gradients."""
        return list(self.parameters())

    def map(self, inputs: Tensors, condition: Tensors, kept: list[Tensor] | None = None) -> Tensors:
        raise NotImplementedError(f"{type(self).__name__} has no map")

    def inverse(self, outputs: Tensors, condition: Tensors, kept: Tensors = ()) -> Tensors:
        raise NotImplementedError(f"{type(self).__name__} has no inverse")

    def rebuild(self, outputs: Tensors, gradients: Tensors, condition: Tensors, kept: Tensors) -> Rebuilt:
        """Inputs and gradients from outputs and their gradients.

        Args:
            outputs: What ``map`` returned.
            gradients: dL/d(output), one per output.
            condition: As ``map`` received it.
            kept: What ``map`` added to it.
        """
        inputs = self.inverse(outputs, condition, kept)
        there = linearise(_Map(self, len(inputs)), *inputs, *condition)
        n = len(inputs)
        found, weight_gradients = there.pull(*gradients)
        return Rebuilt(inputs, _dense(found[:n], inputs), found[n:], weight_gradients)

    def forward(self, inputs: Tensors, embedding: Tensor, policy: Policy) -> Tensors:
        return policy(self, inputs, self.condition(embedding))


class ReversibleSequence(nn.Module):
    """Operations that run one after the other on a stack of tensors.

    Args:
        operations: Each takes ``num_inputs`` tensors from the top of the stack and puts ``num_outputs`` there.
        exact: Keep the streams on a grid, so that what is rebuilt equals what was, bit for bit.
    """

    def __init__(self, operations: Sequence[ReversibleOperation], exact: bool = False) -> None:
        super().__init__()
        self.operations = nn.ModuleList(operations)
        self.exact = exact
        for operation in self._program():
            operation.exact = exact

    def forward(self, inputs: Tensors, embedding: Tensor, activations: str = "rebuilt") -> tuple[Tensor, ...]:
        """Run the chain.

        Args:
            inputs: The stack at the entry.
            embedding: Conditioning of all operations, ``(B, E)``.
            activations: What is kept for the backward pass: ``"rebuilt"`` the exit only, ``"checkpointed"`` the
                inputs of every operation, ``"stored"`` everything. The gradients are the same.
        Raises:
            ValueError: If ``activations`` is none of the three.
        """
        if activations not in ACTIVATIONS:
            raise ValueError(f"activations={activations!r} is unknown; choose one of {', '.join(ACTIVATIONS)}")
        policy: Policy = _stored
        stack = [snap(x) for x in inputs] if self.exact else list(inputs)
        if torch.is_grad_enabled() and activations == "checkpointed":
            policy = _checkpointed
        if torch.is_grad_enabled() and activations == "rebuilt":
            policy = _Rebuilding(tape := Tape())
            stack = list(_Entry.apply(tape, *stack))
        for operation in self._program():
            x = _take(stack, operation.num_inputs)
            stack += operation(x, embedding, policy)
        if isinstance(policy, _Rebuilding):
            stack = list(_Exit.apply(policy.tape, policy.position, *stack))
        return tuple(stack)

    def inverse(self, outputs: Tensors, embedding: Tensor) -> tuple[Tensor, ...]:
        """The stack at the entry, from the stack at the exit."""
        stack = list(outputs)
        for operation in reversed(self._program()):
            y = _take(stack, operation.num_outputs)
            stack += operation.inverse(y, operation.condition(embedding))
        return tuple(stack)

    def _program(self) -> list[ReversibleOperation]:
        return [cast(ReversibleOperation, operation) for operation in self.operations]


class Linearised(NamedTuple):
    """A module's value at a point, and the transpose of its derivative there."""

    value: Tensor
    pull: Callable[..., tuple[list[Tensor | None], list[Tensor | None]]]


def linearise(module: nn.Module, *inputs: Tensor, **constants: Any) -> Linearised:
    """Evaluate a module once, for its value and for its vector-Jacobian product.

    Args:
        module: A module without state besides its parameters.
        inputs: Its tensor arguments.
        constants: Its other arguments.
    Returns:
        ``value``, detached, and ``pull(cotangent)``, which returns the gradients of the inputs and of the
        parameters (None where there is none) and may be called once.
    """
    # detached aliases: hooks of the user's parameters fire once, when autograd accumulates what we return
    weights = {name: p.detach().requires_grad_(p.requires_grad) for name, p in module.named_parameters()}
    leaves = [x.detach().requires_grad_(x.is_floating_point()) for x in inputs]
    with torch.enable_grad():
        # views: hooks of counters refuse a leaf that requires a gradient
        value = functional_call(module, weights, tuple(x.view_as(x) for x in leaves), constants)

    def pull(*cotangents: Tensor) -> tuple[list[Tensor | None], list[Tensor | None]]:
        values = (value,) if isinstance(value, Tensor) else tuple(value)
        reached = [(v, g.to(v.dtype)) for v, g in zip(values, cotangents, strict=True) if v.requires_grad]
        wanted = [t for t in (*leaves, *weights.values()) if t.requires_grad]
        if not reached or not wanted:
            return [None] * len(leaves), [None] * len(weights)
        found = torch.autograd.grad([v for v, _ in reached], wanted, [g for _, g in reached], allow_unused=True)
        gradients = dict(zip(map(id, wanted), found, strict=True))
        return [gradients.get(id(t)) for t in leaves], [gradients.get(id(t)) for t in weights.values()]

    return Linearised(value.detach() if isinstance(value, Tensor) else value, pull)


class Tape:
    """The stack of tensors while the chain is played in reverse."""

    def __init__(self) -> None:
        self._stack: list[Tensor] = []
        self._position = -1

    def seed(self, outputs: Tensors, position: int) -> None:
        """Start at the exit, behind operation ``position - 1``."""
        self._stack, self._position = list(outputs), position

    def take(self, operation: ReversibleOperation, position: int) -> list[Tensor]:
        """The outputs of the operation at ``position``."""
        if self._position != position + 1 or len(self._stack) < operation.num_outputs:
            raise RuntimeError(
                f"no output on the tape for {type(operation).__name__}, operation {position} of a reversible chain: "
                f"the backward pass must enter the chain at its exit; take only what the chain returns into the "
                f'loss, or build the network with activations="stored"'
            )
        self._position = position
        return _take(self._stack, operation.num_outputs)

    def leave(self, inputs: Tensors) -> None:
        """The inputs just rebuilt, which are the outputs of the operation before."""
        self._stack += inputs

    def clear(self) -> None:
        self._stack.clear()


class Policy(Protocol):
    """A way to run an operation such that it can be differentiated."""

    def __call__(self, operation: ReversibleOperation, inputs: Tensors, condition: Tensors) -> Tensors: ...


def _stored(operation: ReversibleOperation, inputs: Tensors, condition: Tensors) -> Tensors:
    return operation.map(inputs, condition)


def _checkpointed(operation: ReversibleOperation, inputs: Tensors, condition: Tensors) -> Tensors:
    return checkpoint(operation.map, inputs, condition, use_reentrant=False)


class _Rebuilding:
    def __init__(self, tape: Tape) -> None:
        self.tape = tape
        self.position = 0

    def __call__(self, operation: ReversibleOperation, inputs: Tensors, condition: Tensors) -> Tensors:
        position, self.position = self.position, self.position + 1
        replay = Replay.capture(operation, inputs[0].device)
        return _Step.apply(
            operation, self.tape, position, replay, len(condition), *inputs, *condition, *operation.weights()
        )


class _Step(torch.autograd.Function):
    """One operation. Its weights are arguments, so that autograd knows them and delivers their gradients."""

    @staticmethod
    def forward(ctx, operation, tape, position, replay, num_conditions, *tensors):
        n = operation.num_inputs
        condition = tensors[n : n + num_conditions]
        ctx.operation, ctx.tape, ctx.position, ctx.replay = operation, tape, position, replay
        ctx.num_conditions = num_conditions
        kept: list[Tensor] = []
        with replay.autocast():
            # detached: hooks of counters refuse inputs that require a gradient while autograd is off
            outputs = operation.map([x.detach() for x in tensors[:n]], [c.detach() for c in condition], kept)
        ctx.save_for_backward(*condition, *kept)
        return tuple(outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients):
        outputs = ctx.tape.take(ctx.operation, ctx.position)
        saved = [t.detach() for t in ctx.saved_tensors]
        condition, kept = saved[: ctx.num_conditions], saved[ctx.num_conditions :]
        with ctx.replay.autocast(), ctx.replay.random():
            x, dx, dc, dw = ctx.operation.rebuild(outputs, gradients, condition, kept)
        ctx.tape.leave(x)
        return None, None, None, None, None, *dx, *dc, *dw


class _Entry(torch.autograd.Function):
    """Nothing forward; backward lets go of the last tensors on the tape."""

    @staticmethod
    def forward(ctx, tape, *inputs):
        ctx.tape = tape
        return tuple(x.view_as(x) for x in inputs)

    @staticmethod
    def backward(ctx, *gradients):
        ctx.tape.clear()
        return None, *gradients


class _Exit(torch.autograd.Function):
    """Saves the stack at the exit; backward seeds the tape with it, as often as backward runs."""

    @staticmethod
    def forward(ctx, tape, position, *outputs):
        ctx.tape, ctx.position = tape, position
        ctx.save_for_backward(*outputs)
        return tuple(y.view_as(y) for y in outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients):
        ctx.tape.seed(ctx.saved_tensors, ctx.position)
        return None, None, *gradients


class _Map(nn.Module):
    """``operation.map`` as a module of flat arguments, for :func:`linearise`."""

    def __init__(self, operation: ReversibleOperation, num_inputs: int) -> None:
        super().__init__()
        self.operation = operation
        self.num_inputs = num_inputs

    def forward(self, *tensors: Tensor) -> Tensors:
        return self.operation.map(tensors[: self.num_inputs], tensors[self.num_inputs :])


def _take(stack: list[Tensor], count: int) -> list[Tensor]:
    top = stack[-count:]
    del stack[-count:]
    return top


def _dense(gradients: Sequence[Tensor | None], like: Tensors) -> list[Tensor]:
    return [torch.zeros_like(x) if g is None else g for g, x in zip(gradients, like, strict=True)]
