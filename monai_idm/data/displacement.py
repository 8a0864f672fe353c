"""Measures how far apart two grids lie, whatever the order of their voxels."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np

__all__ = ["displacement"]


def displacement(size: Sequence[int], affine: np.ndarray, other_size: Sequence[int], other_affine: np.ndarray) -> float:
    """The largest distance, in voxels of the first grid, between corners of two grids that should coincide.

    Grids of the same points in a different order, such as RAS and LPS, are 0 apart.

    Args:
        size, affine: The first grid: voxels per axis, and the map from voxels to mm, ``(4, 4)``.
        other_size, other_affine: The second grid.
    Returns:
        The distance; infinite if the axes or their lengths differ in any order of the voxels.
    """
    to_first = np.linalg.inv(affine) @ other_affine
    order = np.round(to_first[:3, :3])
    is_order = (np.abs(order).sum(0) == 1).all() and (np.abs(order).sum(1) == 1).all()
    if not is_order or tuple((np.abs(order) @ other_size).astype(int)) != tuple(size):
        return np.inf
    corners = np.array(list(product(*[(0, n - 1) for n in other_size])), dtype=float)
    corners_in_first = corners @ to_first[:3, :3].T + to_first[:3, 3]
    origin = np.where(order.sum(1) < 0, np.array(size) - 1.0, 0.0)  # an axis that runs backwards starts at the end
    return float(np.abs(corners_in_first - (corners @ order.T + origin)).max())
