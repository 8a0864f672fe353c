r"""Patches that know where they are.

A network that is trained on patches and run on whole volumes has to be told which part of the head it sees. So every
voxel of a volume of :math:`n` voxels per axis has its coordinates,

.. math:: c(i) = \frac{2 i}{n - 1} - 1, \qquad i = 0, \dots, n - 1,

which are cut with it. Corners are drawn towards the centre, where the brain is,

.. math:: i_0 = \left\lfloor \frac{u_1 + u_2}{2} (n - p + 1) \right\rfloor, \qquad u_1, u_2 \sim U(0, 1).

Source: Bieder et al. 2023, arXiv:2303.15288.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, Randomizable, SpatialCrop
from monai.utils import convert_to_dst_type, ensure_tuple_rep
from torch import Tensor

__all__ = ["AddCoordinatesd", "RandCentrePatchd", "coordinates"]


def coordinates(spatial_size: Sequence[int]) -> Tensor:
    """Coordinates of every voxel of a volume, -1 to 1 along each axis: ``(len(spatial_size), *spatial_size)``."""
    axes = [torch.linspace(-1, 1, n) if n > 1 else torch.zeros(1) for n in spatial_size]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))


class AddCoordinatesd(MapTransform):
    """Give an item the coordinates of its whole volume. It stands before what cuts patches.

    They go to ``data["coordinates"]``, ``(3, *spatial)`` in 3D, with the volume's metadata.
    Behind a random transform it is not cached: it takes three times the memory of a channel, and no time.

    Args:
        keys: Key of the volume, ``(C, *spatial)``.
    """

    def __init__(self, keys: KeysCollection = "image") -> None:
        super().__init__(keys)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            d["coordinates"] = convert_to_dst_type(coordinates(d[key].shape[1:]), d[key])[0]
        return d


class RandCentrePatchd(Randomizable, MapTransform):
    """Cut the same patch from several volumes, more often from the middle than from the rim.

    Args:
        keys: Keys of the volumes, ``(C, *spatial)``, coordinates included.
        patch_size: Voxels per axis, one number or one per axis.
    Raises:
        ValueError: When called, if the volumes differ in size, or the patch is larger than they are.
    """

    def __init__(self, keys: KeysCollection, patch_size: Sequence[int] | int) -> None:
        MapTransform.__init__(self, keys)
        self.patch_size = patch_size
        self._corner: tuple[int, ...] = ()

    def randomize(self, room: Sequence[int]) -> None:
        """Draw the corner; ``room`` is the number of places that it may take along each axis."""
        shares = self.R.random((len(room), 2)).mean(1)
        self._corner = tuple(int(share * places) for share, places in zip(shares, room, strict=True))

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        sizes = {key: tuple(d[key].shape[1:]) for key in self.key_iterator(d)}
        size = next(iter(sizes.values()))
        patch = ensure_tuple_rep(self.patch_size, len(size))
        if len(set(sizes.values())) > 1 or any(p > n for p, n in zip(patch, size, strict=True)):
            raise ValueError(
                f"a patch of {patch} voxels from volumes of {sizes}; all must be of one size and at least as large as "
                f"the patch: take a smaller patch_size, or pad them first (FitToGridd, SpatialPadd)"
            )
        self.randomize([n - p + 1 for n, p in zip(size, patch, strict=True)])
        crop = SpatialCrop(roi_start=self._corner, roi_end=[c + p for c, p in zip(self._corner, patch, strict=True)])
        for key in sizes:
            d[key] = crop(d[key])
        return d
