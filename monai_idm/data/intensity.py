r"""Maps intensities onto [0, 1] by a window per case and channel, then onto the network's range, and back.

With :math:`P_q` the q-th percentile over the brain's voxels:

.. math::
    \mathrm{lo} = \min(0, P_\mathrm{lower}), \quad
    \mathrm{hi} = \max(0, P_\mathrm{upper}), \quad
    x = \mathrm{clip}_{[0, 1]} \frac{v - \mathrm{lo}}{\mathrm{hi} - \mathrm{lo}}, \quad
    v = \mathrm{lo} + x\,(\mathrm{hi} - \mathrm{lo})

So 0, the air around a skull-stripped brain, is always inside the window, and for usual data ``lo`` is 0.
"""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import InvertibleTransform, MapTransform, ScaleIntensityRanged
from monai.transforms.utils_pytorch_numpy_unification import percentile
from monai.utils import TraceKeys, convert_to_tensor

from monai_idm.data.tracked import as_tensor, require_record

__all__ = ["ScaleToNetworkRanged", "ToImageRanged", "WindowIntensityd", "air_level"]

_MIN_CONTRAST = 0.02  # smallest fraction of the window that a brain may span


class WindowIntensityd(MapTransform, InvertibleTransform):
    """Map each channel onto [0, 1] by a window taken from the brain's percentiles.

    ``data["mask"]`` is the brain mask, ``(1, X, Y, Z)``, non-zero in the brain.
    Records in the image's meta data ``window: {"lo": [...], "hi": [...], "clipped": [...]}``, one number per
    channel: the window in the file's intensities, and the fraction of brain voxels that it clips, which the
    inverse cannot restore. Put it after the crop, so that the 0 with which the crop's inverse pads is air.

    Args:
        keys: Keys of the images, ``(C, X, Y, Z)``.
        lower: Percentile of the brain's voxels at the lower end of the window, 0 to 100.
        upper: Percentile of the brain's voxels at the upper end of the window, 0 to 100.
    Raises:
        ValueError: If the percentiles are out of order; when called, if the mask is empty or the brain is
            constant from one percentile to the other; in ``inverse``, if the number of channels has changed.
    """

    def __init__(
        self,
        keys: KeysCollection,
        lower: float = 0.5,
        upper: float = 99.5,
    ) -> None:
        if not 0 <= lower < upper <= 100:
            raise ValueError(
                f"percentiles lower={lower}, upper={upper} must satisfy 0 <= lower < upper <= 100: "
                "for instance 0.5 and 99.5"
            )
        super().__init__(keys)
        self.lower = lower
        self.upper = upper

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        brain = convert_to_tensor(d["mask"], track_meta=False)[0] != 0
        for key in self.key_iterator(d):
            v = as_tensor(d[key]).float()
            lo, hi, clipped = self._window(v, brain)
            if min(lo) < 0 and not isinstance(v, MetaTensor):
                raise ValueError(
                    f"'{key}' has intensities below its air, and a {type(d[key]).__name__} cannot record which value "
                    "the air gets; load it as a MetaTensor, with monai.data.set_track_meta(True)"
                )
            low, high = _per_channel(lo, v), _per_channel(hi, v)
            x = ((v - low) / (high - low)).clamp(0, 1)
            if isinstance(x, MetaTensor):
                x.meta = {**x.meta, "window": {"lo": lo, "hi": hi, "clipped": clipped}}
            d[key] = self.push_transform(x, extra_info={"lo": lo, "hi": hi})
        return d

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            x = require_record(key, d[key], "its window")
            window = self.pop_transform(x)[TraceKeys.EXTRA_INFO]
            if len(x) != len(window["lo"]):
                raise ValueError(
                    f"'{key}' comes back with {len(x)} channels, but the image had {len(window['lo'])}; each "
                    "channel has its own window: predict as many channels as were loaded"
                )
            low, high = _per_channel(window["lo"], x), _per_channel(window["hi"], x)
            d[key] = low + x * (high - low)
        return d

    def _window(self, image: torch.Tensor, brain: torch.Tensor) -> tuple[list[float], list[float], list[float]]:
        name = image.meta.get("filename_or_obj", "the image") if isinstance(image, MetaTensor) else "the image"
        if not brain.any():
            raise ValueError(f"the brain mask of {name} is empty; it must be non-zero in the brain: use LoadVolumesd's")
        lo, hi, clipped = [], [], []
        for channel, volume in enumerate(convert_to_tensor(image, track_meta=False)):
            v = volume[brain]
            lowest, highest = float(percentile(v, self.lower)), float(percentile(v, self.upper))
            if not highest > lowest:
                raise ValueError(
                    f"channel {channel} of {name} is {lowest:g} from percentile {self.lower} to {self.upper} "
                    "of the brain; a brain must have contrast: look at the file, or widen the percentiles"
                )
            lo.append(min(0.0, lowest))
            hi.append(max(0.0, highest))
            if highest - lowest < _MIN_CONTRAST * (hi[-1] - lo[-1]):
                raise ValueError(
                    f"channel {channel} of {name} is {lowest:g} to {highest:g} in the brain, a small range compared "
                    "with its distance to the air at 0: hardly any contrast would be left; bring the air closer to it"
                )
            clipped.append(float(((v < lo[-1]) | (v > hi[-1])).double().mean()))
        return lo, hi, clipped


class ScaleToNetworkRanged(MapTransform, InvertibleTransform):
    r"""Map [0, 1] onto the range of the network and the scheduler; the inverse also clips to [0, 1].

    .. math:: y = \mathrm{minimum} + x\,(\mathrm{maximum} - \mathrm{minimum})

    For metrics and pictures, :class:`ToImageRanged` brings predictions to [0, 1] without ``Invertd``; use one of the
    two per key, not both.

    Args:
        keys: Keys of the images.
        minimum: Value that 0 is mapped to.
        maximum: Value that 1 is mapped to.
    Raises:
        ValueError: If ``minimum`` is not below ``maximum``.
    """

    def __init__(
        self,
        keys: KeysCollection,
        minimum: float = -1.0,
        maximum: float = 1.0,
    ) -> None:
        if not minimum < maximum:
            raise ValueError(f"minimum={minimum} must be below maximum={maximum}: for instance -1 and 1")
        super().__init__(keys)
        self.minimum = minimum
        self.maximum = maximum

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            y = self.minimum + as_tensor(d[key]) * (self.maximum - self.minimum)
            d[key] = self.push_transform(y)
        return d

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            y = as_tensor(d[key])
            if isinstance(y, MetaTensor):  # a plain tensor keeps no record, and needs none
                self.pop_transform(y)
            x = (y - self.minimum) / (self.maximum - self.minimum)
            d[key] = x.clamp(0, 1)
        return d


class ToImageRanged(ScaleIntensityRanged):
    """Map the network's range onto [0, 1] for metrics, pictures and files, with MONAI's ScaleIntensityRanged.

    Args:
        keys: Keys of the images.
        network_range: Values that become 0 and 1.
        clip: Whether to clip to [0, 1]; False for noisy images, whose mean clipping would change.
        squared: Whether the images are variances, which scale with the square of the images' factor.
        allow_missing_keys: Whether to skip keys that an item lacks.
    """

    def __init__(
        self,
        keys: KeysCollection,
        network_range: Sequence[float],
        clip: bool = True,
        squared: bool = False,
        allow_missing_keys: bool = False,
    ) -> None:
        low, high = (0.0, (network_range[1] - network_range[0]) ** 2) if squared else network_range
        super().__init__(keys, low, high, 0.0, 1.0, clip, allow_missing_keys=allow_missing_keys)


def air_level(image: torch.Tensor) -> torch.Tensor:
    """Value to which the window mapped intensity 0, per channel: ``(C, 1, 1, 1)``; 0 if the image was not windowed."""
    window = image.meta.get("window") if isinstance(image, MetaTensor) else None
    if window is None:
        return _per_channel([0.0] * len(image), image)
    low, high = _per_channel(window["lo"], image), _per_channel(window["hi"], image)
    return -low / (high - low)


def _per_channel(values: Sequence[float], image: torch.Tensor) -> torch.Tensor:
    return torch.tensor(values, dtype=image.dtype, device=image.device).view(-1, *[1] * (image.ndim - 1))
