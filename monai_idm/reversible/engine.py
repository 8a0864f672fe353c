r"""Rebuild activations in the backward pass instead of storing them.

A reversible chain is a program for a small stack machine. Operation :math:`k` pops its inputs :math:`x` from the
top of a stack of tensors and pushes its outputs :math:`y`:

.. math:: y = \mathrm{op}_k(x; c, \theta), \qquad x = \mathrm{op}_k^{-1}(y; c, \theta)

with the conditioning :math:`c` (timestep embedding, orthogonal matrices) and the weights :math:`\theta`. A skip
connection is a tensor that waits lower in the stack. The forward pass keeps only the stack at the exit. The backward
pass runs from there in reverse with a :class:`~monai_idm.reversible.tape.Tape`: each operation takes its :math:`y` and
:math:`dL/dy` from the tape, leaves its :math:`x` and :math:`dL/dx` there, and returns :math:`dL/dc` and
:math:`dL/d\theta` to autograd.
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

from monai_idm.reversible.exactness import differentiates_alike, exact_map, require_exact, stored_map
from monai_idm.reversible.fixed_point import first_beyond, snap
from monai_idm.reversible.inverse import Inverse
from monai_idm.reversible.operation import ReversibleOperation, Tensors, described
from monai_idm.reversible.rebuilding import Rebuilding
from monai_idm.reversible.spot_check import SpotCheck
from monai_idm.reversible.tape import Place, Tape

__all__ = ["ACTIVATIONS", "ReversibleSequence"]

ACTIVATIONS = ("rebuilt", "checkpointed", "stored")

T = TypeVar("T")


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
        self.peak: Tensor | None = None
        """:func:`~monai_idm.reversible.fixed_point.first_beyond` of an exact chain's latest pass with gradients."""
        for position, operation in enumerate(self._program()):
            operation.exact = exact
            for name, module in operation.named_modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    raise ValueError(
                        f"{name} of {described(operation, position)} is a {type(module).__name__}; a branch runs twice "
                        f"per step and would update its batch statistics twice: use GroupNorm"
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
        trains = torch.is_grad_enabled() and not torch.compiler.is_exporting()
        if not trains:
            policies = ["stored"] * len(program)
        _refuse_sharded_parts(program)
        tape = Tape(self.gradient_dtype)
        first_rebuilt = policies.index("rebuilt") if "rebuilt" in policies else None
        entry = (self._rounded(x) for x in inputs)
        stack: list[tuple[Tensor, Place | None]] = [(snap(x) if self.exact else x, None) for x in entry]
        peak: Tensor | None = None
        for position, (operation, policy) in enumerate(zip(program, policies, strict=True)):
            x, sources = _unzip(_take(stack, operation.num_inputs))
            versions = [_version(t) for t in x]
            if policy == "rebuilt":
                if position == first_rebuilt:
                    self.spot_check = SpotCheck(x)
                step = Rebuilding(tape, position, sources, self.spot_check if position == first_rebuilt else None)
                y = operation(x, embedding, step)
                stack += zip(y, step.outputs, strict=True)
            else:
                x = tape.keep(x, sources)
                y = operation(x, embedding, _checkpointed if policy == "checkpointed" else stored_map)
                stack += ((self._rounded(t), None) for t in y)
            if self.exact and trains:
                peak = first_beyond(y, position, peak)
            if [_version(t) for t in x] != versions:
                raise ValueError(
                    f"{described(operation, position)} edits its input in place, so that it cannot be rebuilt; "
                    f"make its branch create new tensors (inplace=False)"
                )
        self.peak = peak
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
                    f"{described(operation, position)} turned inputs {shapes} into {len(y)} outputs and back into "
                    f"{[tuple(t.shape) for t in inverted]}; its inverse must return the inputs, and map must return "
                    f"num_outputs ({operation.num_outputs}) tensors"
                )
            if self.exact:
                require_exact(operation, described(operation, position), x, condition)
            error = max(
                float((a - b).abs().max() / a.abs().max().clamp(min=1e-12)) for a, b in zip(x, inverted, strict=True)
            )
            if not error <= tolerance:
                raise ValueError(
                    f"the inverse of {described(operation, position)} misses its input by {error:.1e} of the largest "
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


def _checkpointed(operation: ReversibleOperation, inputs: Tensors, condition: Tensors) -> Tensors:
    if differentiates_alike(operation):
        return exact_map(operation, inputs, condition)
    return checkpoint(operation.map, inputs, condition, use_reentrant=False)


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
                    f"{name} of {described(operation, position)} is wrapped by FSDP; its gradients would be lost: wrap "
                    f"the operation, the chain or the network instead"
                )


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


def _unzip(pairs: Sequence[tuple[Tensor, Place | None]]) -> tuple[list[Tensor], list[Place | None]]:
    return [tensor for tensor, _ in pairs], [place for _, place in pairs]


def _take(stack: list[T], count: int) -> list[T]:
    top = stack[-count:]
    del stack[-count:]
    return top
