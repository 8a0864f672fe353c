"""Checks the scale of classifier-free guidance."""

from __future__ import annotations

import math
from typing import Any

__all__ = ["check_guidance_scale"]


def check_guidance_scale(scale: Any) -> None:
    """Raise a ValueError if a scale of guidance is no finite number from 0 on.

    Args:
        scale: What was given as the scale.
    """
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not 0 <= scale < math.inf:
        raise ValueError(
            f"guidance_scale={scale!r}; choose 0 (ignores the conditions), 1 (no guidance) or more (exaggerates them), "
            f"a finite number"
        )
