r"""Random patches with the coordinates of their voxels in the whole volume.

A network that is trained on patches and run on whole volumes must know which part of the head it sees. Every voxel
of a volume of :math:`n` voxels per axis therefore has coordinates,

.. math:: c(i) = \frac{2 i}{n - 1} - 1, \qquad i = 0, \dots, n - 1,

which are cropped together with it. The corner of a patch is drawn so that patches near the centre, where the brain
is, are more frequent,

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
    """Add the voxel coordinates of the whole volume to an item, before patches are cropped from it.

    They go to ``data["coordinates"]``, ``(3, *spatial)`` in 3D, with the volume's metadata. Place this after a random
    transform to keep them out of the cache: they need three times the memory of a channel, and no time to compute.

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
    """Crop the same random patch from several volumes, more often near the centre than at the border.

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
        """Draw the corner; ``room`` is the number of possible positions along each axis."""
        fractions = self.R.random((len(room), 2)).mean(1)
        self._corner = tuple(int(fraction * n) for fraction, n in zip(fractions, room, strict=True))

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        sizes = {key: tuple(d[key].shape[1:]) for key in self.key_iterator(d)}
        size = next(iter(sizes.values()))
        patch = ensure_tuple_rep(self.patch_size, len(size))
        if len(set(sizes.values())) > 1 or any(p > n for p, n in zip(patch, size, strict=True)):
            raise ValueError(
                f"a patch of {patch} voxels from volumes of {sizes}; the volumes must all have the same size, at least "
                "that of the patch: choose a smaller patch_size, or pad them first (FitToGridd, SpatialPadd)"
            )
        self.randomize([n - p + 1 for n, p in zip(size, patch, strict=True)])
        crop = SpatialCrop(roi_start=self._corner, roi_end=[c + p for c, p in zip(self._corner, patch, strict=True)])
        for key in sizes:
            d[key] = crop(d[key])
        return d
