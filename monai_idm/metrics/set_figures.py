"""Figures of a set of volumes, each as a function of the members that it is computed of.

So the same figure can be computed of the whole set and of subsets.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from monai_idm.metrics.diversity import pair_similarities
from monai_idm.metrics.subsets import over_subsets
from monai_idm.metrics.volume_features import BINS, FEATURES

__all__ = ["Figure", "diversity", "mmd", "nearness", "set_distances"]

TOO_NEAR = 0.05  # share of the real cases whose distance to a training case is too small for samples


class Figure(NamedTuple):
    """A figure of a set.

    Args:
        members: Number of members of the set.
        measure: The figure of the members with these numbers; None if there are too few.
    """

    members: int
    measure: Callable[[Tensor], float | None]

    def of_all(self) -> float | None:
        """The figure of the whole set."""
        return self.measure(torch.arange(self.members))

    def of_subsets(self, size: int) -> dict[str, float | None]:
        """The figure of subsets, see :func:`over_subsets`."""
        return over_subsets(self.measure, self.members, size)


def set_distances(of: dict[str, Tensor], of_real: dict[str, Tensor]) -> dict[str, Figure]:
    """MMD of each feature, and the histogram distance, between a set and the real cases.

    Args:
        of: Features of the set, ``(N, F)`` by the names in ``FEATURES``, float64.
        of_real: Features of the real cases.
    """
    measures: dict[str, Callable[[Tensor], float | None]] = {
        **{f"mmd_{name}": partial(mmd, of[name], of_real[name]) for name in FEATURES},
        "histogram_distance": partial(_histogram_distance, of["intensity"], of_real["intensity"]),
    }
    return {name: Figure(len(of["intensity"]), measure) for name, measure in measures.items()}


def diversity(volumes: Sequence[Tensor], max_pairs: int) -> dict[str, Figure]:
    """Mean MS-SSIM of pairs, see :func:`~monai_idm.metrics.diversity.pair_similarities` for the arguments."""
    measure = partial(_mean_of_pairs, pair_similarities(volumes, max_pairs))
    return {"diversity_ms_ssim": Figure(len(volumes), measure)}


def nearness(distances: Tensor, of_real: Tensor) -> dict[str, Figure]:
    """Mean and median distance to the nearest training case, and the share that is nearer than 95 % of the real cases.

    Args:
        distances: Distance of each member of the set, ``(N,)``.
        of_real: Distance of each real case that was not trained on.
    """
    limit = of_real.quantile(TOO_NEAR)
    measures: dict[str, Callable[[Tensor], Tensor]] = {
        "nearest_rmse": torch.mean,
        "nearest_rmse_median": partial(torch.quantile, q=0.5),
        "share_too_near": lambda some: (some < limit).double().mean(),
    }
    return {name: Figure(len(distances), partial(_measured, m, distances)) for name, m in measures.items()}


def mmd(a: Tensor, b: Tensor, members: Tensor | None = None) -> float | None:
    """Unbiased MMD with a linear kernel of features divided by their standard deviation over the real cases.

    Args:
        a: Features of a set, ``(N, F)``.
        b: Features of the real cases, ``(M, F)``.
        members: Numbers of the set's members to use; None: all.
    Returns:
        None if there are fewer than two members or real cases.
    """
    members = torch.arange(len(a)) if members is None else members
    if min(len(members), len(b)) < 2:
        return None
    spread = b.std(0)
    # a feature that hardly varies over the real cases must not dominate
    unit = spread.clamp(min=0.1 * float(spread.mean()) + 1e-6) * b.shape[1] ** 0.5
    a, b = a[members] / unit, b / unit
    # MONAI's compute_mmd takes sets of one size only; for these it has the same value
    return float(((a.mean(0) - b.mean(0)).square() - a.var(0) / len(a) - b.var(0) / len(b)).sum())


def _histogram_distance(a: Tensor, b: Tensor, members: Tensor) -> float:
    gap = (a[members].mean(0) - b.mean(0)).view(-1, BINS)  # a row for each channel
    return float((gap.cumsum(1).abs().sum(1) / BINS).mean())


def _mean_of_pairs(similarities: dict[tuple[int, int], float], members: Tensor) -> float | None:
    chosen = set(members.tolist())
    values = [value for pair, value in similarities.items() if chosen.issuperset(pair)]
    return sum(values) / len(values) if values else None


def _measured(measure: Callable[[Tensor], Tensor], values: Tensor, members: Tensor) -> float:
    return float(measure(values[members]))
