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

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from monai_idm.reversible.fixed_point import snap
from monai_idm.reversible.operation import Policy, ReversibleOperation, Tensors
from monai_idm.reversible.replay import Replay

__all__ = ["ACTIVATIONS", "ReversibleSequence", "Tape"]

ACTIVATIONS = ("rebuilt", "checkpointed", "stored")


class ReversibleSequence(nn.Module):
    """Operations that run one after the other on a stack of tensors.

    Args:
        operations: Each takes ``num_inputs`` tensors from the top of the stack and puts ``num_outputs`` there.
        exact: Keep the streams on a grid, so that what is rebuilt equals what was, bit for bit.
    Raises:
        ValueError: If an operation holds a batch normalisation.
    """

    def __init__(self, operations: Sequence[ReversibleOperation], exact: bool = False) -> None:
        super().__init__()
        self.operations = nn.ModuleList(operations)
        self.exact = exact
        for position, operation in enumerate(self._program()):
            operation.exact = exact
            for name, module in operation.named_modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    raise ValueError(
                        f"{name} of {_name(operation, position)} is a {type(module).__name__}; a branch runs twice per "
                        f"step and would update batch statistics twice: use GroupNorm"
                    )

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

    @torch.no_grad()
    def verify(self, inputs: Tensors, embedding: Tensor, tolerance: float = 1e-4) -> None:
        """Run every operation forward and back, and compare.

        Args:
            inputs: The stack at the entry.
            embedding: Conditioning, ``(B, E)``.
            tolerance: Of max |rebuilt - input| / max |input|.
        Raises:
            ValueError: If an operation's inverse does not undo its map, or a shape or a number is not as it says.
        """
        stack = [snap(x) for x in inputs] if self.exact else list(inputs)
        for position, operation in enumerate(self._program()):
            x, condition = _take(stack, operation.num_inputs), operation.condition(embedding)
            kept: list[Tensor] = []
            y = operation.map(x, condition, kept)
            back = operation.inverse(y, condition, kept)
            shapes = [tuple(t.shape) for t in x]
            if len(y) != operation.num_outputs or [tuple(t.shape) for t in back] != shapes:
                raise ValueError(
                    f"{_name(operation, position)} turned inputs {shapes} into {len(y)} outputs and back into "
                    f"{[tuple(t.shape) for t in back]}; its inverse must give the inputs, and num_outputs "
                    f"({operation.num_outputs}) the number of outputs"
                )
            error = max(
                float((a - b).abs().max() / a.abs().max().clamp(min=1e-12)) for a, b in zip(x, back, strict=True)
            )
            if not error <= tolerance:
                raise ValueError(
                    f"the inverse of {_name(operation, position)} misses its input by {error:.1e} of its largest, "
                    f"more than {tolerance:.0e}: inverse must undo map line by line, and map must repeat itself"
                )
            stack += y

    def _program(self) -> list[ReversibleOperation]:
        return [cast(ReversibleOperation, operation) for operation in self.operations]


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
                f"no output on the tape for {_name(operation, position)}: "
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


def _take(stack: list[Tensor], count: int) -> list[Tensor]:
    top = stack[-count:]
    del stack[-count:]
    return top


def _name(operation: ReversibleOperation, position: int) -> str:
    return f"operation {position} of the chain, {type(operation).__name__}"
