r"""The smoothest fill of a hole: what inpainting starts from, and what it should beat.

.. math:: \Delta u = 0 \text{ in the hole}, \qquad u = i \text{ around it}

Each voxel is the mean of its six neighbours. A network that does not beat it has learned no anatomy.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.sparse import coo_array, eye_array
from scipy.sparse.linalg import cg
from torch import Tensor

__all__ = ["harmonic_fill"]

_TOLERANCE = 1e-6  # of the solution, relative to the intensities around the hole


def harmonic_fill(volume: Tensor, hole: Tensor) -> Tensor:
    """Fill a hole with the solution of Laplace's equation; at the volume's own border nothing flows.

    Args:
        volume: Volume ``(C, D, H, W)``; its values in the hole are not used.
        hole: Mask ``(1, D, H, W)``, above 0 inside; it must not cover the volume.
    Returns:
        The volume with the hole filled; float32.
    Raises:
        ValueError: If the hole covers the volume.
    """
    inside = hole[0].as_subclass(Tensor).cpu().numpy() > 0
    if inside.all():
        raise ValueError("the hole covers the whole volume; a fill needs something around it")
    filled = volume.as_subclass(Tensor).cpu().float().numpy().copy()
    numbers = np.full(inside.shape, -1)
    numbers[inside] = np.arange(inside.sum())
    neighbours, pairs, borders = np.zeros(inside.sum()), [], []
    for axis in range(3):
        for step in (1, -1):
            here, there = (slice(None, -1), slice(1, None))[::step]
            at, near = _part(inside, axis, here), _part(inside, axis, there)
            own = _part(numbers, axis, here)[at]
            neighbours[own] += 1
            pairs.append(np.stack([own[near[at]], _part(numbers, axis, there)[at & near]]))
            borders.append((own[~near[at]], _part(filled, axis + 1, there)[:, at & ~near]))
    rows, columns = np.concatenate(pairs, 1)
    size = len(neighbours)
    laplacian = neighbours * eye_array(size) - coo_array((np.ones(len(rows)), (rows, columns)), (size, size)).tocsr()
    around = np.zeros((len(filled), size))
    for own, values in borders:
        around[:, own] += values  # a voxel has one neighbour on each side
    for channel, right in zip(filled, around, strict=True):
        channel[inside] = cg(laplacian, right, rtol=_TOLERANCE)[0]
    return torch.from_numpy(filled)


def _part(of: npt.NDArray[Any], axis: int, part: slice) -> npt.NDArray[Any]:
    return of[(*[slice(None)] * axis, part)]
