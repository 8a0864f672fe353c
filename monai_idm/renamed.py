"""Let the previous names of public objects work for one more version, with a warning."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["renamed"]


def renamed(module: str, new_names: Mapping[str, str]) -> Callable[[str], Any]:
    """A ``__getattr__`` for a module in which public objects have been renamed.

    Args:
        module: ``__name__`` of the module.
        new_names: Maps each old name to the new one.
    """

    def __getattr__(name: str) -> Any:
        if name not in new_names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        warnings.warn(
            f"{module}.{name} was renamed to {new_names[name]} in version 0.4.0; "
            f"the old name works until version 0.5.0",
            FutureWarning,
            stacklevel=2,
        )
        return getattr(sys.modules[module], new_names[name])

    return __getattr__
