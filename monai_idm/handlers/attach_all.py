"""Attach handlers that a config defines elsewhere."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ignite.engine import Engine

__all__ = ["AttachAll"]


class AttachAll:
    """Attach other handlers, in order, for a list that must not contain ``"@reference"``, such as ``train#handlers``.

    MONAI's check of a bundle's properties looks for ``_target_`` in each item of that list.

    Args:
        handlers: Objects with ``attach(engine)``.
    """

    def __init__(self, handlers: Iterable[Any]) -> None:
        self.handlers = list(handlers)

    def attach(self, engine: Engine) -> None:
        for handler in self.handlers:
            handler.attach(engine)
