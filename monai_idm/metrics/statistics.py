"""Mean, standard deviation and confidence interval of a metric over the cases of a split."""

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
        ``mean`` (NaN for no case), ``sd`` (with n - 1), ``n``, and ``ci95``, the 95 % interval of the mean by the
        percentile bootstrap over cases (seeded). ``sd`` and ``ci95`` are None for fewer than two cases, or if a value
        is NaN or infinite.
    """
    values = torch.tensor(list(series), dtype=torch.float64)
    n = len(values)
    has_spread = n > 1 and bool(values.isfinite().all())
    interval = None
    if has_spread:
        picked = torch.randint(n, (_RESAMPLES, n), generator=torch.Generator().manual_seed(0))
        interval = values[picked].mean(1).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return {
        "mean": float(values.mean()) if n else math.nan,
        "sd": float(values.std()) if has_spread else None,
        "n": n,
        "ci95": interval,
    }
