r"""Brings a whole brain onto the network's grid without distortion, and back.

A volume of :math:`n_i` voxels of :math:`d_i` mm goes onto a grid of :math:`N_i` voxels, with one spacing

.. math:: s = \max_i \frac{n_i d_i}{N_i}, \qquad m_i = \min(N_i, \max(1, [n_i d_i / s])):

it is resized to :math:`m_i` voxels and padded to :math:`N_i`. The longest axis fills the grid; on the others
the spacing differs from :math:`s` by the rounding to whole voxels, which the affine records.
"""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.data.utils import affine_to_spacing
from monai.transforms import InvertibleTransform, MapTransform, Resize, SpatialPad
from monai.utils import ensure_tuple_rep

from monai_idm.data.intensity import air_level
from monai_idm.data.tracked import as_tensor, require_record

__all__ = ["FitToGridd", "grid_spacing_mm"]

_MODES = {"trilinear": "trilinear", "nearest": "nearest-exact"}


class FitToGridd(MapTransform, InvertibleTransform):
    """Resize a volume to fit a grid, keeping its proportions, and pad the rest with air.

    MONAI's ``Resize`` and ``SpatialPad`` do the work, and their records let ``Invertd`` restore the input's shape and
    affine. The padding has the value to which :class:`monai_idm.data.WindowIntensityd` mapped intensity 0 (0 without
    that transform), so that the border is seamless; hence this comes before
    :class:`monai_idm.data.ScaleToNetworkRanged`. Reorient and crop to the brain first.

    Args:
        keys: Keys of the volumes, ``(C, X, Y, Z)``; they must be MetaTensors unless ``zoom`` is False.
        spatial_size: Voxels of the grid, one number or three.
        mode: ``"trilinear"``, anti-aliased, or ``"nearest"``, one for all keys or one for each.
        zoom: Whether to resize; ``False``: only pad, which keeps every voxel as it is.
    Raises:
        ValueError: If ``spatial_size`` is not positive, or a mode is unknown; when called, if a volume has no affine
            or is not 3D, or with ``zoom=False`` does not fit.
    """

    def __init__(
        self,
        keys: KeysCollection,
        spatial_size: Sequence[int] | int,
        mode: Sequence[str] | str = "trilinear",
        zoom: bool = True,
    ) -> None:
        super().__init__(keys)
        self.spatial_size = tuple(int(n) for n in ensure_tuple_rep(spatial_size, 3))
        if min(self.spatial_size) < 1:
            raise ValueError(f"spatial_size {self.spatial_size} must be positive on every axis: for instance 64")
        self.mode = ensure_tuple_rep(mode, len(self.keys))
        if unknown := {*self.mode} - {*_MODES}:
            raise ValueError(f"mode {', '.join(sorted(unknown))} is unknown; choose one of {', '.join(_MODES)}")
        self.zoom = zoom
        self.pad = SpatialPad(self.spatial_size)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key, mode in self.key_iterator(d, self.mode):
            d[key] = as_tensor(d[key])
            # a new one for each volume: Resize stores its size, and threads share this transform
            resize = Resize(self._resized_shape(d[key]), mode=_MODES[mode], anti_aliasing=mode == "trilinear")
            air = air_level(d[key])
            d[key] = self.pad(resize(d[key] - air)) + air  # both fill with 0
        return d

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            resized = self.pad.inverse(require_record(key, d[key], "how it was fitted to the grid"))
            resize = Resize(self.spatial_size)
            record = resize.pop_transform(
                resized, check=False
            )  # check=False: the record is from another Resize, that of __call__
            d[key] = resize.inverse_transform(resized, record)
        return d

    def _resized_shape(self, volume: torch.Tensor) -> tuple[int, ...]:
        if volume.ndim != 4 or (self.zoom and not isinstance(volume, MetaTensor)):
            raise ValueError(
                f"a {type(volume).__name__} of shape {tuple(volume.shape)} cannot be fitted; it must be a "
                "MetaTensor (C, X, Y, Z), whose affine gives the voxels' size: load it with LoadVolumesd, under "
                "monai.data.set_track_meta(True), or use zoom=False"
            )
        n, grid = np.array(volume.shape[1:]), np.array(self.spatial_size)
        if self.zoom:
            assert isinstance(volume, MetaTensor)
            size_mm = n * affine_to_spacing(volume.affine).cpu().numpy()
            s = (size_mm / grid).max()
            return tuple(np.clip(np.round(size_mm / s), 1, grid).astype(int).tolist())
        if (n > grid).any():
            name = volume.meta.get("filename_or_obj", "a volume") if isinstance(volume, MetaTensor) else "a volume"
            raise ValueError(
                f"{name} has {tuple(n.tolist())} voxels, the grid "
                f"{self.spatial_size}; without zoom it must fit: use a larger spatial_size, or zoom=True"
            )
        return tuple(n.tolist())


def grid_spacing_mm(dataset: Iterable[Mapping[Hashable, Any]], limit: int = 16, key: str = "image") -> float:
    """Typical voxel size of a preprocessed dataset, in mm: the side of a cube with the median voxel volume.

    Args:
        dataset: Preprocessed items, MetaTensors under ``key``.
        limit: Number of items to use, from the first.
        key: Key of the images.
    Raises:
        ValueError: If there is no item, or one without an affine.
    """
    images = [item[key] for item in islice(iter(dataset), limit)]
    with_affine = sum(isinstance(image, MetaTensor) for image in images)
    if not images or with_affine < len(images):
        raise ValueError(
            f"{len(images)} items, {with_affine} with an affine; there must be at least one, and an affine "
            "in each: use a dataset that is preprocessed from files"
        )
    return float(np.median([abs(float(torch.linalg.det(image.affine[:3, :3]))) ** (1 / 3) for image in images]))
