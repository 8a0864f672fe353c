"""Handlers that stand elsewhere in a config."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ignite.engine import Engine

__all__ = ["AttachAll"]


class AttachAll:
    """Attaches other handlers, in their order: a config's ``train#handlers`` may hold no ``"@reference"``.

    MONAI's check of a bundle's properties looks for ``_target_`` in each item.

    Args:
        handlers: Objects with ``attach(engine)``.
    """

    def __init__(self, handlers: Iterable[Any]) -> None:
        self.handlers = list(handlers)

    def attach(self, engine: Engine) -> None:
        for handler in self.handlers:
            handler.attach(engine)
