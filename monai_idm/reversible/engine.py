r"""Rebuild activations in the backward pass instead of storing them.

A reversible chain is a program for a small stack machine. Operation :math:`k` pops its inputs :math:`x` from the
top of a stack of tensors and pushes its outputs :math:`y`:

.. math:: y = \mathrm{op}_k(x; c, \theta), \qquad x = \mathrm{op}_k^{-1}(y; c, \theta)

with the conditioning :math:`c` (timestep embedding, orthogonal matrices) and the weights :math:`\theta`. A skip
connection is a tensor that waits lower in the stack. The forward pass keeps only the stack at the exit. The backward
pass runs from there in reverse with a :class:`Tape`: each operation takes its :math:`y` and :math:`dL/dy` from the
tape, leaves its :math:`x` and :math:`dL/dx` there, and returns :math:`dL/dc` and :math:`dL/d\theta` to autograd.
Autograd could keep a gradient alive while the next one is computed; what lies on the tape is overwritten in place.
Operations that store their activations can be mixed with operations that rebuild theirs; a rebuilt tensor that enters a
storing operation is kept, as at the exit.

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
        gradient_dtype: Precision to which the gradients of inputs and outputs of operations are rounded, and in which
            they wait on the tape, such as ``torch.bfloat16``; None: theirs.
    Raises:
        ValueError: If an operation contains a batch normalisation.
    """

    def __init__(
        self,
        operations: Sequence[ReversibleOperation],
        exact: bool = False,
        gradient_dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.operations = nn.ModuleList(operations)
        self.exact = exact
        self.gradient_dtype = gradient_dtype
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
        tape = Tape(self.gradient_dtype)
        first_rebuilt = policies.index("rebuilt") if "rebuilt" in policies else None
        entry = (self._rounded(x) for x in inputs)
        stack: list[tuple[Tensor, Place | None]] = [(snap(x) if self.exact else x, None) for x in entry]
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
                stack += ((self._rounded(t), None) for t in y)
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
        return ReversibleSequence(inverses, self.exact, self.gradient_dtype)(outputs, embedding, policies)

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

    def _rounded(self, stream: Tensor) -> Tensor:
        """A tensor whose gradient is rounded as that of a rebuilt one."""
        if self.gradient_dtype is None or not stream.requires_grad:
            return stream
        return _Rounded.apply(stream, self.gradient_dtype)

    def _program(self) -> list[ReversibleOperation]:
        return [cast(ReversibleOperation, operation) for operation in self.operations]


class Tape:
    """Hands each rebuilt tensor, and its gradient, from the operation that rebuilds it to the one that produced it.

    The forward pass assigns each tensor its place. The operation that takes a tensor and its gradient from the tape
    owns them and may overwrite them. Autograd, which needs a gradient to go on, passes a placeholder without memory.

    Args:
        gradient_dtype: Precision of the gradients; None: that of the tensors.
    """

    def __init__(self, gradient_dtype: torch.dtype | None = None) -> None:
        self.gradient_dtype = gradient_dtype
        self._pairs: dict[Place, tuple[Tensor, Tensor]] = {}
        self._shared: set[Place] = set()  # whose tensors autograd or the caller may still need
        self._zeros: dict[tuple[torch.dtype, torch.device], Tensor] = {}

    def keep(self, tensors: Tensors, places: Sequence[Place | None]) -> Tensors:
        """Save the tensors that have a place; the backward pass then puts them there, with their gradients."""
        placed = [place for place in places if place is not None]
        if not placed:
            return list(tensors)
        kept = iter(_Keep.apply(self, placed, *(t for t, p in zip(tensors, places, strict=True) if p is not None)))
        return [t if place is None else next(kept) for t, place in zip(tensors, places, strict=True)]

    def put(
        self, places: Sequence[Place | None], tensors: Tensors, gradients: Tensors, shared: bool = False
    ) -> Tensors:
        """Put tensors and their gradients in their places; returns what autograd is to pass on.

        Args:
            places: One per tensor; None: its gradient is left to autograd.
            tensors: The tensors.
            gradients: Their gradients.
            shared: Whether others may need them, so that the operation that takes them gets copies.
        """
        passed_on = []
        self._shared.update(place for place in places if place is not None and shared)
        for place, tensor, gradient in zip(places, tensors, gradients, strict=True):
            if place is not None:
                self._pairs[place] = tensor, gradient if shared else gradient.to(dtype=self.gradient_dtype)
            passed_on.append(gradient if place is None else self._zero(tensor).expand_as(tensor))
        return passed_on

    def take(
        self, operation: ReversibleOperation, position: int, places: Sequence[Place], passed_on: Sequence[Tensor]
    ) -> tuple[Tensors, Tensors]:
        """The tensors and the gradients of some places, after a look at what autograd passed on."""
        if any(place not in self._pairs for place in places):
            raise RuntimeError(
                f"no output on the tape for {_name(operation, position)}: "
                f"the backward pass must enter the chain at its exit; compute the loss from what the chain returns "
                f'only, or build the network with activations="stored"'
            )
        if any(g.untyped_storage()._cdata != self._zero(g).untyped_storage()._cdata for g in passed_on):
            raise RuntimeError(
                f"a hook replaced the gradient of what {_name(operation, position)} returned; where activations are "
                f'rebuilt, autograd does not see that gradient: build the network with activations="stored"'
            )
        outputs, gradients = (list(each) for each in zip(*map(self._pairs.pop, places), strict=True))
        shared = [i for i, place in enumerate(places) if place in self._shared]
        self._shared.difference_update(places)
        for i in shared:  # one by one: what nobody else needs is freed before the next is copied
            gradients[i] = gradients[i].to(dtype=self.gradient_dtype, copy=True)
        for i in shared:
            outputs[i] = outputs[i].clone()
        return outputs, gradients

    def _zero(self, like: Tensor) -> Tensor:
        key = like.dtype, like.device
        if key not in self._zeros:
            self._zeros[key] = like.new_zeros(())
        return self._zeros[key]


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
            outputs, gradients = policy.tape.take(operation, policy.position, policy.outputs, gradients)
            x, dx, dc, dw = operation.rebuild(outputs, gradients, condition, remainders)
        if policy.spot_check is not None:
            policy.spot_check.compare(x)
        needed = ctx.needs_input_grad[4 : 4 + operation.num_inputs]  # by the operation before
        places = [place if n else None for place, n in zip(policy.inputs, needed, strict=True)]
        return None, None, None, None, *policy.tape.put(places, x, _owned(dx, x, dc, dw)), *dc, *dw


class _Rounded(torch.autograd.Function):
    """A tensor as it is; its gradient is rounded to a precision."""

    @staticmethod
    def forward(ctx, stream, dtype):
        ctx.dtype = dtype
        return stream.expand_as(stream)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        return gradient.to(ctx.dtype).to(gradient.dtype), None


class _Keep(torch.autograd.Function):
    """Save tensors; every backward pass puts them on the tape, with their gradients."""

    @staticmethod
    def forward(ctx, tape, places, *tensors):
        ctx.tape, ctx.places = tape, places
        ctx.save_for_backward(*tensors)
        return tuple(t.expand_as(t) for t in tensors)  # view_as would change the stride of a batch of one

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients):
        # shared: the caller may read the outputs or run backward again
        return None, None, *ctx.tape.put(ctx.places, [*ctx.saved_tensors], [*gradients], shared=True)


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


def _owned(gradients: Tensors, *others: Sequence[Tensor | None]) -> Tensors:
    """Gradients that may be overwritten: copies of those that share memory with each other or with other tensors."""
    used = {t.untyped_storage()._cdata for tensors in others for t in tensors if t is not None}
    owned = []
    for gradient in gradients:
        storage = gradient.untyped_storage()
        if storage._cdata in used or storage.nbytes() != gradient.nbytes:  # a part of a tensor, or an expanded one
            gradient = gradient.clone()
        used.add(storage._cdata)
        owned.append(gradient)
    return owned


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
