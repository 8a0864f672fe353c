"""Finds the air around a brain: the one value that a skull-stripped volume has wherever there is no brain.

Most files have 0 there, others -1, the minimum of a z-score, or 0 with noise of 1e-15. The value is read off the border
of the volume, which is air in any volume that holds a whole brain; where the border does not agree on one value, nobody
but the user can say where the brain is.
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

_EQUAL = 1e-6  # of the range of a volume: closer to the air than this is air
_CLOSE = 0.05  # of the range: closer than this without being equal is noise
_MOST, _FEW = 0.5, 0.1  # of the border's voxels
_FULL = 0.95  # of its own bounding box: a brain fills about half
_BOX = 8  # voxels per side; fewer say nothing

_WAY_OUT = (
    "skull-strip the volumes (HD-BET, SynthStrip), or, where they are, say what value the air has, as with --air 0"
)
_logger = logging.getLogger(__name__)


def find_brain(name: str, volume: Tensor, air: float | None = None) -> Tensor:
    """Where a volume differs from the air: ``(X, Y, Z)``, true or false.

    Args:
        name: What to call the volume in errors.
        volume: Finite intensities, ``(X, Y, Z)``.
        air: The value of the air, if the user gives it: then nothing is judged.
    Raises:
        ValueError: If the border of the volume does not agree on a value.
    """
    lowest, highest = volume.aminmax()
    intensities = float(highest - lowest)
    tolerance = _EQUAL * intensities
    if air is None:
        border = _border(volume)
        air = float(border.median())
        air = 0.0 if abs(air) <= tolerance else air
        distance = (border - air).abs()
        equal = float((distance <= tolerance).float().mean())
        noisy = float((distance <= _CLOSE * intensities).float().mean()) - equal
        if equal <= _MOST or noisy > _FEW:
            raise ValueError(
                f"{name} has no clear air: {equal:.0%} of the voxels on its border are {air:g}, another {noisy:.0%} "
                f"almost that; around a skull-stripped brain they share one value: {_WAY_OUT}"
            )
        if air:
            _logger.info("%s: most of its border is %g, which is taken for air", name, air)
    return (volume - air).abs() > tolerance


def require_brain(name: str, brain: Tensor, judged: bool = True) -> None:
    """Refuse a mask that is empty, or the whole of its bounding box, which no brain is.

    Args:
        name: What to call the case in errors.
        brain: ``(X, Y, Z)``, true in the brain.
        judged: Whether to refuse a box; an empty mask always is.
    Raises:
        ValueError: If there is nothing, or nothing but a box.
    """
    voxels = brain.nonzero()
    if not len(voxels):
        raise ValueError(f"{name} shows nothing but air; a volume must show a brain: convert it again, or correct air")
    sides = voxels.amax(0) - voxels.amin(0) + 1
    share = len(voxels) / float(sides.prod())
    if judged and share > _FULL and int(sides.min()) >= _BOX:
        raise ValueError(
            f"{name}: what differs from air fills {share:.0%} of a box of {tuple(sides.tolist())} voxels, where a "
            f"brain fills about half; it looks like a background of noise, or like a cut-out: {_WAY_OUT}"
        )


class AirToZerod(MapTransform, InvertibleTransform):
    """Subtract the value of the air from each channel, so that it is 0 exactly; the inverse adds it again.

    ``data["mask"]`` is the brain mask, ``(1, X, Y, Z)``, 0 in the air. Put this before the crop, whose inverse adds
    air of 0.

    Args:
        keys: Keys of the images, ``(C, X, Y, Z)``.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        outside = convert_to_tensor(d["mask"], track_meta=False)[0] == 0
        for key in self.key_iterator(d):
            image = as_tensor(d[key]).float()
            air = [float(channel[outside].median()) if outside.any() else 0.0 for channel in image]
            d[key] = self.push_transform(self._plus(image, [-a for a in air]) * ~outside, extra_info={"air": air})
        return d

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            image = require_record(key, d[key], "its air")
            d[key] = self._plus(image, self.pop_transform(image)[TraceKeys.EXTRA_INFO]["air"])
        return d

    def _plus(self, image: Tensor, values: list[float]) -> Tensor:
        if len(image) != len(values):
            raise ValueError(
                f"an image of {len(image)} channels comes back, {len(values)} were loaded, each with air of its own; "
                "predict as many channels as were loaded"
            )
        return image + image.new_tensor(values).view(-1, *[1] * (image.ndim - 1))


def _border(volume: Tensor) -> Tensor:
    """All voxels of the six faces."""
    faces = [volume.select(axis, end).flatten() for axis in range(3) for end in (0, -1)]
    return torch.cat(faces)
