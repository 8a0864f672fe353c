"""Finds the air around a skull-stripped brain: the one value that all voxels outside it share.

In most files that value is 0; in others it is -1, the minimum of a z-score, or 0 with noise of 1e-15. It is read off
the border of the volume, which is air in any volume that holds a whole brain. If the border has no single value, only
the user can say where the brain is.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.transforms import InvertibleTransform, MapTransform
from monai.utils import TraceKeys, convert_to_tensor
from torch import Tensor

from monai_idm.data.tracked import as_tensor, require_record

__all__ = ["AirToZerod", "find_brain", "require_brain"]

_AIR = 1e-6  # fraction of a volume's intensity range: a voxel closer than this to the air's value is air
_NOISE = 0.05  # fraction of that range: a border voxel closer than this, but not equal, is noise
_MIN_EQUAL, _MAX_NOISY = 0.5, 0.1  # fractions of the border's voxels
_MAX_FILL = 0.95  # fraction of its bounding box that a brain may fill; usually it is about half
_MIN_SIDE = 8  # voxels; how full a smaller bounding box is shows nothing

_WAY_OUT = (
    "skull-strip the volumes (HD-BET, SynthStrip), or, if they already are, give the value of the air, as in --air 0"
)
_logger = logging.getLogger(__name__)


def find_brain(name: str, volume: Tensor, air: float | None = None) -> Tensor:
    """Find the voxels that differ from the air: a boolean mask, ``(X, Y, Z)``.

    Args:
        name: What to call the volume in errors.
        volume: Finite intensities, ``(X, Y, Z)``.
        air: Value of the air, if the user gives one; the border is then not examined.
    Raises:
        ValueError: If the border of the volume has no single value.
    """
    lowest, highest = volume.aminmax()
    value_range = float(highest - lowest)
    tolerance = _AIR * value_range
    if air is None:
        border = _border(volume)
        air = float(border.median())
        air = 0.0 if abs(air) <= tolerance else air
        distance = (border - air).abs()
        equal = float((distance <= tolerance).float().mean())
        noisy = float((distance <= _NOISE * value_range).float().mean()) - equal
        if equal <= _MIN_EQUAL or noisy > _MAX_NOISY:
            raise ValueError(
                f"{name} has no clear air: {equal:.0%} of the voxels on its border are {air:g}, another {noisy:.0%} "
                f"almost that; around a skull-stripped brain they all share one value: {_WAY_OUT}"
            )
        if air:
            _logger.info("%s: most of its border is %g, which is taken to be air", name, air)
    return (volume - air).abs() > tolerance


def require_brain(name: str, brain: Tensor, refuse_box: bool = True) -> None:
    """Refuse a mask that is empty, or that fills its bounding box as no brain does.

    Args:
        name: What to call the case in errors.
        brain: ``(X, Y, Z)``, true in the brain.
        refuse_box: Whether to refuse a full box; an empty mask is always refused.
    Raises:
        ValueError: If the mask is empty, or a full box.
    """
    voxels = brain.nonzero()
    if not len(voxels):
        raise ValueError(
            f"{name} shows nothing but air; a volume must show a brain: convert it again, or correct the value of air"
        )
    sides = voxels.amax(0) - voxels.amin(0) + 1
    fill = len(voxels) / float(sides.prod())
    if refuse_box and fill > _MAX_FILL and int(sides.min()) >= _MIN_SIDE:
        raise ValueError(
            f"{name}: what differs from air fills {fill:.0%} of a box of {tuple(sides.tolist())} voxels, where a "
            f"brain fills about half; it looks like a background of noise, or like a cut-out: {_WAY_OUT}"
        )


class AirToZerod(MapTransform, InvertibleTransform):
    """Subtract the value of the air from each channel, so that air is exactly 0; the inverse adds it back.

    ``data["mask"]`` is the brain mask, ``(1, X, Y, Z)``, 0 in the air. Put this before the crop, whose inverse pads
    with 0.

    Args:
        keys: Keys of the images, ``(C, X, Y, Z)``.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        outside = convert_to_tensor(d["mask"], track_meta=False)[0] == 0
        for key in self.key_iterator(d):
            image = as_tensor(d[key]).float()
            air = [float(channel[outside].median()) if outside.any() else 0.0 for channel in image]
            d[key] = self.push_transform(self._add(image, [-a for a in air]) * ~outside, extra_info={"air": air})
        return d

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            image = require_record(key, d[key], "its air")
            d[key] = self._add(image, self.pop_transform(image)[TraceKeys.EXTRA_INFO]["air"])
        return d

    def _add(self, image: Tensor, values: list[float]) -> Tensor:
        if len(image) != len(values):
            raise ValueError(
                f"the image to invert has {len(image)} channels, but {len(values)} were loaded, each with its own "
                "value of air; predict as many channels as were loaded"
            )
        return image + image.new_tensor(values).view(-1, *[1] * (image.ndim - 1))


def _border(volume: Tensor) -> Tensor:
    """All voxels of the six faces."""
    faces = [volume.select(axis, end).flatten() for axis in range(3) for end in (0, -1)]
    return torch.cat(faces)
