r"""Thick slices, as in clinical scans: simulated from thin ones, recognised in a file, and made thin again.

A slice of thickness :math:`T` is the mean of the tissue that it covers, and what lies between the centres of two slices
is interpolated:

.. math:: x' = U D x, \qquad D_{ji} = \frac{|\,i \cap j\,|}{\sum_{i'} |\,i' \cap j\,|}, \qquad
          U_{ij} = \max\Big(0,\ 1 - \frac{|z_i - z_j|}{T}\Big)

for voxels :math:`i` and slices :math:`j` with centres :math:`z`; before the first and after the last centre, the slice
itself continues.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.data.utils import affine_to_spacing
from monai.transforms import MapTransform, Randomizable, SpatialResample
from monai.utils import convert_to_dst_type
from torch import Tensor

from monai_idm.data.intensity import air_level
from monai_idm.data.tracked import as_tensor, require_record

__all__ = ["AXES", "RequireThickSlicesd", "ThickSlicesd", "ToThinSlicesd"]

AXES = {"sagittal": 0, "coronal": 1, "axial": 2}
"""The axis of a RAS volume that slices of each orientation are stacked along."""
_SIMILAR = 1.3  # ratio of thicknesses up to which a network sees what it was trained on
_logger = logging.getLogger(__name__)


class ThickSlicesd(Randomizable, MapTransform):
    """Replace a volume by what thick slices show of it, on the same grid; ``target`` keeps the volume.

    Args:
        keys: Keys of the volumes, ``(C, *spatial)``, in RAS.
        slices: Orientation of the slices, a name in ``AXES``.
        thickness_mm: Distance of the slices, which touch each other.
        random: Whether the first slice begins anywhere, anew for each volume; False: at the volume's first voxel.
    Raises:
        ValueError: If the orientation is unknown, or the thickness not positive; when called, if a volume is no
            MetaTensor, which knows its voxels' size, or its voxels are as thick as the slices.
    """

    def __init__(
        self, keys: KeysCollection, slices: str = "axial", thickness_mm: float = 6.0, random: bool = False
    ) -> None:
        MapTransform.__init__(self, keys)
        if slices not in AXES:
            raise ValueError(f"slices={slices!r}; choose from {', '.join(AXES)}")
        if not thickness_mm > 0:
            raise ValueError(f"thickness_mm={thickness_mm}; give a thickness above 0, such as 6")
        self.axis = AXES[slices]
        self.thickness_mm = thickness_mm
        self.random = random
        self._phase = 0.0

    def randomize(self, data: Any = None) -> None:
        """Draw where the first slice begins, as a part of its thickness."""
        self._phase = float(self.R.uniform()) if self.random else 0.0

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        self.randomize()
        for key in self.key_iterator(d):
            volume = as_tensor(d[key])
            if not isinstance(volume, MetaTensor):
                raise ValueError(
                    f"'{key}' is a {type(volume).__name__}, which does not know the size of its voxels; make its "
                    "slices thick before EnsureTyped drops the metadata"
                )
            spacing = float(affine_to_spacing(volume.affine)[self.axis])
            if spacing >= self.thickness_mm:
                raise ValueError(
                    f"'{key}' has voxels of {spacing:.1f} mm where slices are to have {self.thickness_mm:g} mm; slices "
                    "must be thicker than voxels: choose a larger thickness_mm, or a finer grid"
                )
            operator = _operator(volume.shape[1 + self.axis], spacing / self.thickness_mm, self._phase).to(volume)
            thick = torch.tensordot(volume.as_subclass(Tensor), operator, ([1 + self.axis], [1]))
            d["target"] = volume
            d[key] = convert_to_dst_type(thick.movedim(-1, 1 + self.axis), volume)[0]
        return d


def _operator(number: int, size: float, phase: float) -> Tensor:
    """The matrix U D for a number of voxels of this size, in units of a slice, the first of which begins at -phase."""
    edges = torch.arange(number + 1, dtype=torch.float64) * size + phase
    slices = torch.arange(int(edges[-1].ceil()), dtype=torch.float64)
    overlap = torch.minimum(edges[None, 1:], slices[:, None] + 1) - torch.maximum(edges[None, :-1], slices[:, None])
    overlap = overlap.clamp(min=0)
    means = overlap / overlap.sum(1, keepdim=True)
    centres = ((edges[1:] + edges[:-1]) / 2).clamp(0.5, float(len(slices)) - 0.5)
    weights = (1 - (centres[:, None] - (slices[None] + 0.5)).abs()).clamp(min=0)
    return (weights @ means).float()


class RequireThickSlicesd(MapTransform):
    """Make sure that a volume has slices like those that a network was trained on.

    Args:
        keys: Keys of the volumes as loaded, MetaTensors ``(C, X, Y, Z)``.
        slices: Orientation of the training's slices, a name in ``AXES``.
        thickness_mm: Their thickness; another one by more than a third is logged as a warning.
    Raises:
        ValueError: When called, if the thickest side of the voxels is along another axis.
    """

    def __init__(self, keys: KeysCollection, slices: str, thickness_mm: float) -> None:
        super().__init__(keys)
        self.slices = slices
        self.thickness_mm = thickness_mm

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            axis, spacing = _stacking(require_record(key, d[key], "its voxels' size"))
            name = d.get("subject", "the volume")
            along = {number: orientation for orientation, number in AXES.items()}[_axis_in_ras(d[key].affine, axis)]
            if along != self.slices:
                raise ValueError(
                    f"{name} has voxels of {' x '.join(f'{mm:.2g}' for mm in spacing)} mm, which are thickest in "
                    f"{along} slices; the network was trained on {self.slices} slices of {self.thickness_mm:g} mm: use "
                    f"one that was trained with --slices {along}"
                )
            ratio = float(spacing[axis] / self.thickness_mm)
            if not 1 / _SIMILAR <= ratio <= _SIMILAR:
                _logger.warning(
                    "%s has slices of %.2g mm, and the network was trained on %g mm: details may be made up",
                    name, spacing[axis], self.thickness_mm,
                )  # fmt: skip
        return d


class ToThinSlicesd(MapTransform):
    """Bring volumes from the network's grid to that of the input, with thin slices, and to the input's intensities.

    Each slice of the input becomes as many as make its voxels about as high as wide; the field of view is the same.

    Args:
        keys: Keys of the volumes on the network's grid, from 0 to 1, ``(C, X, Y, Z)``.
        image_key: Key of the input after :class:`~monai_idm.data.BrainToGridd`, whose record of it is used.
        native_key: Key of any volume on the grid of the input.
    """

    def __init__(self, keys: KeysCollection, image_key: str = "image", native_key: str = "native") -> None:
        super().__init__(keys)
        self.image_key = image_key
        self.native_key = native_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        image = require_record(self.image_key, d[self.image_key], "its place")
        native = require_record(self.native_key, d[self.native_key], "its place")
        affine, shape = _thin(native)
        window = image.meta["window"]
        (air,) = (step["extra_info"]["air"] for step in image.applied_operations if step["class"] == "AirToZerod")
        low, high, outside = (torch.tensor(values).view(-1, 1, 1, 1) for values in (window["lo"], window["hi"], air))
        resample = SpatialResample(mode="bilinear", padding_mode="zeros")
        for key in self.key_iterator(d):
            voxels = as_tensor(d[key]).as_subclass(Tensor).cpu().float()
            # what is outside of the grid is 0, which is air once it has been subtracted
            moved = MetaTensor(voxels - air_level(image).cpu(), affine=image.affine.cpu())
            d[key] = resample(moved, dst_affine=affine, spatial_size=shape) * (high - low) + outside
        return d


def _stacking(volume: MetaTensor) -> tuple[int, np.ndarray]:
    """The axis along which voxels are thickest, and their size in mm."""
    spacing = affine_to_spacing(volume.affine).cpu().numpy()
    return int(spacing.argmax()), spacing


def _axis_in_ras(affine: Tensor, axis: int) -> int:
    return int(affine[:3, axis].abs().argmax())


def _thin(native: MetaTensor) -> tuple[Tensor, list[int]]:
    """The affine and the shape of the input's grid with thin slices."""
    axis, spacing = _stacking(native)
    parts = max(1, round(float(spacing[axis] / np.delete(spacing, axis).min())))
    affine, shape = native.affine.cpu().double().clone(), list(native.shape[1:])
    affine[:3, 3] -= (
        affine[:3, axis] * (1 - 1 / parts) / 2
    )  # from the centre of the first slice to that of its first part
    affine[:3, axis] /= parts
    shape[axis] *= parts
    return affine, shape
