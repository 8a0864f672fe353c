"""One operation of a chain that rebuilds its inputs in the backward pass."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from monai_idm.reversible.exactness import is_known, require_exact
from monai_idm.reversible.operation import ReversibleOperation, Tensors, described
from monai_idm.reversible.replay import Replay
from monai_idm.reversible.spot_check import SpotCheck
from monai_idm.reversible.tape import Place, Tape

__all__ = ["Rebuilding"]


class Rebuilding:
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
            require_exact(operation, described(operation, self.position), inputs, condition)
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
                f"the weights of {described(operation, policy.position)} were changed or replaced between forward and "
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
