"""Names that public objects had in the version before: they still work, and warn."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["renamed"]


def renamed(module: str, new_names: Mapping[str, str]) -> Callable[[str], Any]:
    """``__getattr__`` of a module some of whose names have changed.

    Args:
        module: The module's ``__name__``.
        new_names: New name by old name.
    """

    def __getattr__(name: str) -> Any:
        if name not in new_names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        warnings.warn(
            f"{module}.{name} is called {new_names[name]} since version 0.4.0; the old name works until version 0.5.0",
            FutureWarning,
            stacklevel=2,
        )
        return getattr(sys.modules[module], new_names[name])

    return __getattr__
