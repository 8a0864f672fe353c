"""How a chain hands rebuilt tensors and their gradients from one operation to the one before it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from monai_idm.reversible.operation import ReversibleOperation, Tensors, described

__all__ = ["Place", "Tape"]

Place = tuple[int, int]
"""Operation and output."""


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
                f"no output on the tape for {described(operation, position)}: "
                f"the backward pass must enter the chain at its exit; compute the loss from what the chain returns "
                f'only, or build the network with activations="stored"'
            )
        if any(g.untyped_storage()._cdata != self._zero(g).untyped_storage()._cdata for g in passed_on):
            raise RuntimeError(
                f"a hook replaced the gradient of what {described(operation, position)} returned; where activations "
                f'are rebuilt, autograd does not see that gradient: build the network with activations="stored"'
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
