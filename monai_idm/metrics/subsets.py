"""How a figure of a set depends on the number of its members."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["over_subsets"]

SUBSETS = 8


def over_subsets(measure: Callable[[Tensor], float | None], members: int, size: int) -> dict[str, float | None]:
    """Measure 8 random subsets of one size, seeded and drawn without repetition; the whole set is measured once.

    Args:
        measure: Figure of the members with these numbers, ``(size,)``; None if it has none.
        members: Number of members of the set.
        size: Size of the subsets.
    Returns:
        ``mean`` over the subsets, None if the set is smaller than ``size`` or no subset has a figure; and
        ``sd_of_subsets`` (n - 1), None if fewer than two have one.
    """
    generator = torch.Generator().manual_seed(0)
    count = 0 if size > members else 1 if size == members else SUBSETS
    drawn = [torch.randperm(members, generator=generator)[:size].sort().values for _ in range(count)]
    found = [figure for subset in drawn if (figure := measure(subset)) is not None]
    figures = torch.tensor(found, dtype=torch.float64)
    return {
        "mean": float(figures.mean()) if len(figures) else None,
        "sd_of_subsets": float(figures.std()) if len(figures) > 1 else None,
    }
