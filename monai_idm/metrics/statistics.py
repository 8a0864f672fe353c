"""What a split says of one figure: mean, spread, and how sure the mean is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

__all__ = ["describe"]

_RESAMPLES = 10_000


def describe(series: Sequence[float]) -> dict[str, Any]:
    """Statistics of one value per case.

    Returns:
        ``mean`` (NaN for none), ``sd`` (with n - 1; None for one case), ``n``, and ``ci95``, the 95 % interval of the
        mean by the percentile bootstrap over cases (seeded; None for one case). Where a value is infinite there is
        neither spread nor interval.
    """
    values = torch.tensor(list(series), dtype=torch.float64)
    n = len(values)
    several = n > 1 and bool(values.isfinite().all())
    interval = None
    if several:
        picked = torch.randint(n, (_RESAMPLES, n), generator=torch.Generator().manual_seed(0))
        interval = values[picked].mean(1).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return {
        "mean": float(values.mean()) if n else math.nan,
        "sd": float(values.std()) if several else None,
        "n": n,
        "ci95": interval,
    }
