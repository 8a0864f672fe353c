r"""Volumes of regions, as shares of the brain, in generated and in real volumes.

Labels come from a network that segments both alike: labels of another source would be compared with its errors.
The distance of two distributions of a region's share is the Wasserstein-1 distance, the area between the two
cumulative distribution functions,

.. math:: W = \int |F_\text{generated}(s) - F_\text{real}(s)| \, ds,

in standard deviations of the real cases: 0 for the same shares; 1 if all shares are larger by one standard deviation.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from monai_idm.metrics.statistics import describe

__all__ = ["compare_region_shares", "region_shares"]

_RESAMPLES = 2000


def region_shares(label: Tensor, regions: Mapping[str, Sequence[int]]) -> dict[str, float]:
    """The share of the brain that each region fills.

    Args:
        label: Label numbers of a volume, of any shape; every label but 0 is brain.
        regions: Label numbers by region.
    Returns:
        Voxels of the region by voxels of the brain, 0 to 1.
    Raises:
        ValueError: If no voxel is brain.
    """
    brain = int((label != 0).sum())
    if brain == 0:
        raise ValueError(
            "a label map without a brain: every voxel is 0; leave the case out and state how many there were"
        )
    return {name: int(torch.isin(label, torch.tensor(numbers)).sum()) / brain for name, numbers in regions.items()}


def compare_region_shares(
    generated: Iterable[Tensor], real: Iterable[Tensor], regions: Mapping[str, Sequence[int]]
) -> dict[str, dict[str, Any]]:
    """Compare the shares of regions in generated volumes with those in real ones.

    Args:
        generated: Label maps of generated volumes, see :func:`region_shares`; one is read after the other.
        real: Label maps of real volumes, by the same network.
        regions: Label numbers by region.
    Returns:
        For each region ``generated`` and ``real``, each with ``mean``, ``sd``, ``n`` and ``ci95`` of the share; and
        ``distance``, the Wasserstein-1 distance in standard deviations of the real cases. ``distance_ci95`` is its
        95 % interval by the percentile bootstrap over the cases of both sets, which lies too high for distances near 0
        and may even leave them out. ``distance_by_chance`` is exceeded by 5 % of pairs of such sets of one
        distribution (all cases dealt out anew). Both are seeded. The three are None if a set holds fewer than two maps
        or the real share does not vary.
    Raises:
        ValueError: If a set is empty, a map has no brain, or no real map has a label of a region.
    """
    shares = {
        name: [region_shares(label, regions) for label in maps]
        for name, maps in {"generated": generated, "real": real}.items()
    }
    for name, cases in shares.items():
        if not cases:
            raise ValueError(f"no {name} label map to compare; give at least two")
    found: dict[str, dict[str, Any]] = {}
    for region, numbers in regions.items():
        a, b = (torch.tensor([case[region] for case in cases], dtype=torch.float64) for cases in shares.values())
        if not b.any():
            raise ValueError(
                f"no real label map has a label of the region {region!r}, {list(numbers)}; give the numbers that the "
                "segmentation network writes"
            )
        found[region] = {"generated": describe(a.tolist()), "real": describe(b.tolist()), **_distance(a, b)}
    return found


def _distance(a: Tensor, b: Tensor) -> dict[str, Any]:
    unit = b.std() if min(len(a), len(b)) > 1 else torch.zeros(())
    if unit == 0:
        return {"distance": None, "distance_ci95": None, "distance_by_chance": None}
    generator = torch.Generator().manual_seed(0)
    picked = [x[torch.randint(len(x), (_RESAMPLES, len(x)), generator=generator)] for x in (a, b)]
    dealt = torch.cat([a, b])[torch.rand(_RESAMPLES, len(a) + len(b), generator=generator).argsort(1)]
    limits = torch.tensor([0.025, 0.975], dtype=torch.float64)
    return {
        "distance": float(_wasserstein(a[None], b[None]) / unit),
        "distance_ci95": (_wasserstein(*picked) / unit).quantile(limits).tolist(),
        "distance_by_chance": float((_wasserstein(dealt[:, : len(a)], dealt[:, len(a) :]) / unit).quantile(0.95)),
    }


def _wasserstein(a: Tensor, b: Tensor) -> Tensor:
    """Wasserstein-1 distance of the samples ``(R, n)`` and ``(R, m)``, row by row: ``(R,)``."""
    values, order = torch.cat([a, b], 1).sort(1)
    n, m = a.shape[1], b.shape[1]
    steps = torch.tensor([1 / n] * n + [-1 / m] * m, dtype=values.dtype)  # of the difference of both functions
    return (steps[order].cumsum(1)[:, :-1].abs() * values.diff(dim=1)).sum(1)
