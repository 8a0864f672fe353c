"""Notify an object when a parameter's gradient is complete."""

from __future__ import annotations

import weakref
from typing import Any, Protocol

from torch import Tensor

__all__ = ["GradientHook", "Listener"]


class Listener(Protocol):
    def gradient_is_complete(self, p: Tensor) -> None:
        """Called in the backward pass, once all contributions to the gradient of p have been added."""


class GradientHook:
    """Calls a listener without keeping it alive; does nothing once the listener is gone."""

    def __init__(self, listener: Listener) -> None:
        self.listener = weakref.ref(listener)
        self._handles: list[Any] = []

    def __call__(self, p: Tensor) -> None:
        listener = self.listener()
        if listener is not None:
            listener.gradient_is_complete(p)

    def check(self, p: Tensor) -> None:
        """Refuse a parameter that has the hook of another living listener."""
        hooks = (p._post_accumulate_grad_hooks or {}).values()
        if any(isinstance(hook, GradientHook) and hook.listener() is not None for hook in hooks):
            raise ValueError(
                "another AdamWInBackward steps one of these parameters already; call its remove() before this is built"
            )

    def put_on(self, p: Tensor) -> None:
        """Register the hook on a parameter, which may be frozen at this time."""
        required = p.requires_grad
        p.requires_grad_()  # torch refuses a hook on a frozen parameter
        self._handles.append(p.register_post_accumulate_grad_hook(self))
        p.requires_grad_(required)

    def remove(self) -> None:
        """Remove the hook from all parameters."""
        while self._handles:
            self._handles.pop().remove()
