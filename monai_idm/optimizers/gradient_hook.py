"""Hear of it when a parameter's gradient is complete."""

from __future__ import annotations

import weakref
from typing import Any, Protocol

from torch import Tensor

__all__ = ["GradientHook", "Listener"]


class Listener(Protocol):
    def gradient_is_complete(self, p: Tensor) -> None:
        """Called in the backward pass, when the gradient of p has come from everywhere."""


class GradientHook:
    """Tells a listener, and does not keep it alive: with the listener it ends."""

    def __init__(self, listener: Listener) -> None:
        self.listener = weakref.ref(listener)
        self._handles: list[Any] = []

    def __call__(self, p: Tensor) -> None:
        listener = self.listener()
        if listener is not None:
            listener.gradient_is_complete(p)

    def check(self, p: Tensor) -> None:
        """Refuse a parameter of which another living listener is told."""
        hooks = (p._post_accumulate_grad_hooks or {}).values()
        if any(isinstance(hook, GradientHook) and hook.listener() is not None for hook in hooks):
            raise ValueError(
                "another AdamWInBackward steps one of these parameters already; call its remove() before this is built"
            )

    def put_on(self, p: Tensor) -> None:
        """Be told of a parameter, which may be frozen for now."""
        wanted = p.requires_grad
        p.requires_grad_()  # a frozen one takes no hook
        self._handles.append(p.register_post_accumulate_grad_hook(self))
        p.requires_grad_(wanted)

    def remove(self) -> None:
        """Be told of nothing any more."""
        while self._handles:
            self._handles.pop().remove()
