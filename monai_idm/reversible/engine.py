r"""Rebuild activations in the backward pass instead of storing them.

A reversible chain is a program for a small stack machine. Operation :math:`k` pops its inputs :math:`x` from the
top of a stack of tensors and pushes its outputs :math:`y`:

.. math:: y = \mathrm{op}_k(x; c, \theta), \qquad x = \mathrm{op}_k^{-1}(y; c, \theta)

with the conditioning :math:`c` (timestep embedding, orthogonal matrices) and the weights :math:`\theta`. A skip
connection is a tensor that waits lower in the stack. The forward pass keeps only the stack at the exit. The backward
pass runs from there in reverse with a :class:`Tape`: each operation takes its :math:`y` from the tape, leaves its
:math:`x` there, and turns :math:`dL/dy` into :math:`dL/dx`, :math:`dL/dc` and :math:`dL/d\theta`. Operations that
store their activations can be mixed with operations that rebuild theirs; a rebuilt tensor that enters a storing
operation is kept, as at the exit.

Every operation is a separate autograd node, so its parameter gradients are complete, and can be used and freed,
before the next operation runs.

Source: the tape-free form for residual networks is Gomez et al. 2017, arXiv:1707.04585; the invertible U-Net is
Etmann et al. 2020, arXiv:2005.05220.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from monai_idm.reversible.exactness import differentiates_alike, exact_map, is_known, require_exact, stored_map
from monai_idm.reversible.fixed_point import snap
from monai_idm.reversible.inverse import Inverse
from monai_idm.reversible.operation import ReversibleOperation, Tensors
from monai_idm.reversible.replay import Replay
from monai_idm.reversible.spot_check import SpotCheck

__all__ = ["ACTIVATIONS", "ReversibleSequence", "Tape"]

ACTIVATIONS = ("rebuilt", "checkpointed", "stored")

T = TypeVar("T")
Place = tuple[int, int]  # operation, output


class ReversibleSequence(nn.Module):
    """Operations that run one after the other on a stack of tensors.

    Args:
        operations: Each pops ``num_inputs`` tensors from the top of the stack and pushes ``num_outputs``.
        exact: Keep the streams on a grid, so that rebuilt tensors equal the original ones bit for bit.
    Raises:
        ValueError: If an operation contains a batch normalisation.
    """

    def __init__(self, operations: Sequence[ReversibleOperation], exact: bool = False) -> None:
        super().__init__()
        self.operations = nn.ModuleList(operations)
        self.exact = exact
        self.spot_check: SpotCheck | None = None
        """Sample of the inputs of the first rebuilt operation, from the latest forward pass that rebuilds any."""
        for position, operation in enumerate(self._program()):
            operation.exact = exact
            for name, module in operation.named_modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    raise ValueError(
                        f"{name} of {_name(operation, position)} is a {type(module).__name__}; a branch runs twice per "
                        f"step and would update its batch statistics twice: use GroupNorm"
                    )

    @torch.jit.unused
    def forward(
        self, inputs: Iterable[Tensor], embedding: Tensor, activations: str | Sequence[str] = "rebuilt"
    ) -> Tensors:
        """Run the chain.

        Args:
            inputs: The stack at the entry; pass an iterator so that the chain can free tensors held by nothing else.
            embedding: Conditioning of all operations, ``(B, E)``.
            activations: What is kept for the backward pass, as one policy for all operations or one for each:
                ``"rebuilt"`` keeps nothing, ``"checkpointed"`` the inputs of every operation, ``"stored"`` everything.
                The gradients are the same.
        Raises:
            ValueError: If a policy is unknown, their number does not fit, or an operation edits its inputs in place.
        """
        program = self._program()
        policies = _policies(activations, len(program))
        if not torch.is_grad_enabled() or torch.compiler.is_exporting():
            policies = ["stored"] * len(program)
        _refuse_sharded_parts(program)
        tape = Tape()
        first_rebuilt = policies.index("rebuilt") if "rebuilt" in policies else None
        stack: list[tuple[Tensor, Place | None]] = [(snap(x) if self.exact else x, None) for x in inputs]
        for position, (operation, policy) in enumerate(zip(program, policies, strict=True)):
            x, sources = _unzip(_take(stack, operation.num_inputs))
            versions = [_version(t) for t in x]
            if policy == "rebuilt":
                if position == first_rebuilt:
                    self.spot_check = SpotCheck(x)
                step = _Rebuilding(tape, position, sources, self.spot_check if position == first_rebuilt else None)
                y = operation(x, embedding, step)
                stack += zip(y, step.outputs, strict=True)
            else:
                x = tape.keep(x, sources)
                y = operation(x, embedding, _checkpointed if policy == "checkpointed" else stored_map)
                stack += ((t, None) for t in y)
            if [_version(t) for t in x] != versions:
                raise ValueError(
                    f"{_name(operation, position)} edits its input in place, so that it cannot be rebuilt; "
                    f"make its branch create new tensors (inplace=False)"
                )
        return tape.keep(*_unzip(stack))

    def plain(self, inputs: Tensors, embedding: Tensor) -> Tensors:
        """Run the chain without a tape, in code that TorchScript supports."""
        stack = inputs
        if self.exact:
            stack = [snap(x) for x in inputs]
        for operation in self.operations:  # not _program(): TorchScript can only unroll a ModuleList
            top = len(stack) - operation.num_inputs  # type: ignore[operator]
            stack = stack[:top] + operation.map(stack[top:], operation.condition(embedding))  # type: ignore[operator]
        return stack

    @torch.jit.unused
    def inverse(self, outputs: Tensors, embedding: Tensor, activations: str | Sequence[str] = "rebuilt") -> Tensors:
        """Compute the stack at the entry from the stack at the exit. The inverse is a chain too, and can be trained.

        Args:
            outputs: The stack at the exit.
            embedding: The same as in ``forward``.
            activations: The same as in ``forward``, in the order of the forward chain.
        """
        inverses = [Inverse(operation) for operation in reversed(self._program())]
        policies = activations if isinstance(activations, str) else activations[::-1]
        return ReversibleSequence(inverses, self.exact)(outputs, embedding, policies)

    @torch.no_grad()
    def verify(self, inputs: Tensors, embedding: Tensor, tolerance: float = 1e-4) -> None:
        """Run every operation forward and back and compare; an exact chain must agree bit for bit, gradients included.

        Args:
            inputs: The stack at the entry.
            embedding: Conditioning, ``(B, E)``.
            tolerance: Largest allowed max |rebuilt - input| / max |input|; an exact chain must reach 0.
        Raises:
            ValueError: If an operation's inverse does not undo its map, or returns other shapes, or the number of
                outputs is not ``num_outputs``.
        """
        stack = [snap(x) for x in inputs] if self.exact else list(inputs)
        for position, operation in enumerate(self._program()):
            x, condition = _take(stack, operation.num_inputs), operation.condition(embedding)
            remainders: list[Tensor] = []
            y = operation.map(x, condition, remainders)
            inverted = operation.inverse(y, condition, remainders)
            shapes = [tuple(t.shape) for t in x]
            if len(y) != operation.num_outputs or [tuple(t.shape) for t in inverted] != shapes:
                raise ValueError(
                    f"{_name(operation, position)} turned inputs {shapes} into {len(y)} outputs and back into "
                    f"{[tuple(t.shape) for t in inverted]}; its inverse must return the inputs, and map must return "
                    f"num_outputs ({operation.num_outputs}) tensors"
                )
            if self.exact:
                require_exact(operation, _name(operation, position), x, condition)
            error = max(
                float((a - b).abs().max() / a.abs().max().clamp(min=1e-12)) for a, b in zip(x, inverted, strict=True)
            )
            if not error <= tolerance:
                raise ValueError(
                    f"the inverse of {_name(operation, position)} misses its input by {error:.1e} of the largest "
                    f"value, more than {tolerance:.0e}: inverse must undo map line by line, and map must be repeatable"
                )
            stack += y

    def _program(self) -> list[ReversibleOperation]:
        return [cast(ReversibleOperation, operation) for operation in self.operations]


class Tape:
    """Hands each rebuilt tensor from the operation that rebuilds it to the operation that produced it.

    The forward pass assigns each tensor its place. The operation that takes a tensor from the tape owns it and may
    overwrite it.
    """

    def __init__(self) -> None:
        self._tensors: dict[Place, Tensor] = {}

    def keep(self, tensors: Tensors, places: Sequence[Place | None]) -> Tensors:
        """Save the tensors that have a place; the backward pass then puts them there."""
        placed = [place for place in places if place is not None]
        if not placed:
            return list(tensors)
        kept = iter(_Keep.apply(self, placed, *(t for t, p in zip(tensors, places, strict=True) if p is not None)))
        return [t if place is None else next(kept) for t, place in zip(tensors, places, strict=True)]

    def put(self, places: Sequence[Place | None], tensors: Tensors) -> None:
        self._tensors.update((p, t) for p, t in zip(places, tensors, strict=True) if p is not None)

    def take(self, operation: ReversibleOperation, position: int, places: Sequence[Place]) -> list[Tensor]:
        if any(place not in self._tensors for place in places):
            raise RuntimeError(
                f"no output on the tape for {_name(operation, position)}: "
                f"the backward pass must enter the chain at its exit; compute the loss from what the chain returns "
                f'only, or build the network with activations="stored"'
            )
        return [self._tensors.pop(place) for place in places]


def _checkpointed(operation: ReversibleOperation, inputs: Tensors, condition: Tensors) -> Tensors:
    if differentiates_alike(operation):
        return exact_map(operation, inputs, condition)
    return checkpoint(operation.map, inputs, condition, use_reentrant=False)


class _Rebuilding:
    """The policy of a rebuilt operation: it keeps the places of its tensors on the tape, but no activations."""

    def __init__(self, tape: Tape, position: int, inputs: Sequence[Place | None], spot_check: SpotCheck | None) -> None:
        self.tape = tape
        self.position = position
        self.inputs = inputs
        self.spot_check = spot_check
        self.outputs: list[Place] = []

    def __call__(self, operation: ReversibleOperation, inputs: Tensors, condition: Tensors) -> Tensors:
        self.outputs = [(self.position, i) for i in range(operation.num_outputs)]
        if operation.exact and not is_known(operation):
            require_exact(operation, _name(operation, self.position), inputs, condition)
        replay = Replay.capture(operation, inputs[0].device)
        return _Step.apply(operation, self, replay, len(condition), *inputs, *condition, *operation.weights())


class _Step(torch.autograd.Function):
    """One rebuilt operation. Its weights are arguments, so that autograd tracks them and delivers their gradients."""

    @staticmethod
    def forward(ctx, operation, policy, replay, num_conditions, *tensors):
        n = operation.num_inputs
        condition = tensors[n : n + num_conditions]
        ctx.operation, ctx.policy, ctx.replay, ctx.num_conditions = operation, policy, replay, num_conditions
        remainders: list[Tensor] = []
        with replay.precision():
            # detached: the hooks of FLOP counters reject inputs that require a gradient while autograd is off
            outputs = operation.map([x.detach() for x in tensors[:n]], [c.detach() for c in condition], remainders)
        ctx.save_for_backward(*condition, *remainders)
        return tuple(outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients):
        operation, policy = ctx.operation, ctx.policy
        saved = [t.detach() for t in ctx.saved_tensors]
        condition, remainders = saved[: ctx.num_conditions], saved[ctx.num_conditions :]
        if ctx.replay.weights != Replay.of_weights(operation):
            raise RuntimeError(
                f"the weights of {_name(operation, policy.position)} were changed or replaced between forward and "
                f"backward; rebuilding needs those of the forward pass: step the optimizer after backward, and "
                f'use activations="stored" with functional_call'
            )
        with ctx.replay.precision(), ctx.replay.random():
            outputs = policy.tape.take(operation, policy.position, policy.outputs)
            x, dx, dc, dw = operation.rebuild(outputs, gradients, condition, remainders)
        if policy.spot_check is not None:
            policy.spot_check.compare(x)
        needed = ctx.needs_input_grad[4 : 4 + operation.num_inputs]  # by the operation before
        policy.tape.put([place if n else None for place, n in zip(policy.inputs, needed, strict=True)], x)
        return None, None, None, None, *map(_without_shared_storage, dx), *dc, *dw


class _Keep(torch.autograd.Function):
    """Save tensors; every backward pass puts copies of them on the tape."""

    @staticmethod
    def forward(ctx, tape, places, *tensors):
        ctx.tape, ctx.places = tape, places
        ctx.save_for_backward(*tensors)
        return tuple(t.expand_as(t) for t in tensors)  # view_as would change the stride of a batch of one

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients):
        # clones: tensors on the tape get overwritten, while the caller may read the outputs or run backward again
        ctx.tape.put(ctx.places, [t.clone() for t in ctx.saved_tensors])
        return None, None, *gradients


def _policies(activations: str | Sequence[str], count: int) -> list[str]:
    policies = [activations] * count if isinstance(activations, str) else list(activations)
    unknown = [policy for policy in policies if policy not in ACTIVATIONS]
    if unknown or len(policies) != count:
        raise ValueError(
            f"activations={activations!r} is unknown; choose one of {', '.join(ACTIVATIONS)}, or one for each of "
            f"{count} operations"
        )
    return policies


def _refuse_sharded_parts(program: Sequence[ReversibleOperation]) -> None:
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return
    from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel  # here because the import takes a second

    for position, operation in enumerate(program):
        wrapped = operation.operation if isinstance(operation, Inverse) else operation
        for name, part in wrapped.named_modules():
            if name and isinstance(part, (FSDPModule, FullyShardedDataParallel)):
                raise ValueError(
                    f"{name} of {_name(operation, position)} is wrapped by FSDP; its gradients would be lost: wrap "
                    f"the operation, the chain or the network instead"
                )


def _without_shared_storage(gradient: Tensor) -> Tensor:
    # the gradient of a half that passes through is often a view of both halves and would keep both in memory
    return gradient.clone() if gradient.untyped_storage().nbytes() > gradient.nbytes else gradient


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


def _unzip(pairs: Sequence[tuple[Tensor, Place | None]]) -> tuple[list[Tensor], list[Place | None]]:
    return [tensor for tensor, _ in pairs], [place for _, place in pairs]


def _take(stack: list[T], count: int) -> list[T]:
    top = stack[-count:]
    del stack[-count:]
    return top


def _name(operation: ReversibleOperation, position: int) -> str:
    return f"operation {position} of the chain, {type(operation).__name__}"
