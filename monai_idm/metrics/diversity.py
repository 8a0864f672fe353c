"""How similar the volumes of a set are to each other: MS-SSIM of pairs."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor

from monai_idm.metrics.volume import SCALES, ms_ssim, smallest_side

__all__ = ["pair_similarities", "scales_that_fit"]


def scales_that_fit(volume: Tensor) -> int:
    """The most scales of MS-SSIM, at most 5, that a volume ``(C, D, H, W)`` has room for: 3 at 32^3, 4 at 64^3."""
    side = min(volume.shape[1:])
    return max((scales for scales in range(1, len(SCALES) + 1) if smallest_side(scales) <= side), default=1)


def pair_similarities(volumes: Sequence[Tensor], max_pairs: int) -> dict[tuple[int, int], float]:
    """MS-SSIM, mean over the channels, of pairs of volumes.

    Args:
        volumes: Volumes ``(C, D, H, W)`` of one size, 0 to 1; half precision is enough.
        max_pairs: Number of pairs; if there are more, these are drawn, always the same for a number of volumes.
    Returns:
        Similarities by the places of both volumes, the smaller first.
    Raises:
        ValueError: If a volume is smaller than the window of SSIM.
    """
    pairs = list(combinations(range(len(volumes)), 2))
    if len(pairs) > max_pairs:
        order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(0))
        pairs = [pairs[place] for place in order[:max_pairs].tolist()]
    return {
        (i, j): float(ms_ssim(volumes[i].float(), volumes[j].float(), scales=scales_that_fit(volumes[i])).mean())
        for i, j in pairs
    }
