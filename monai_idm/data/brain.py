"""From a loaded head to what the network sees: the brain on the network's grid, in the network's range, and back."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from monai.config import KeysCollection
from monai.transforms import CropForegroundd, InvertibleTransform, MapTransform, Orientationd, allow_missing_keys_mode
from monai.utils import ensure_tuple, ensure_tuple_rep

from monai_idm.data.air import AirToZerod
from monai_idm.data.grid import FitToGridd
from monai_idm.data.intensity import ScaleToNetworkRanged, WindowIntensityd

__all__ = ["BrainToGridd"]

_RAS = (("L", "R"), ("P", "A"), ("I", "S"))


class BrainToGridd(MapTransform, InvertibleTransform):
    """Air to 0, RAS, crop to the brain, window, grid, and the network's range: the steps of ``self.steps``, in order.

    The item's ``mask``, as LoadVolumesd leaves it, and labels take the steps through space alone; so ``Invertd`` takes
    something that the network has made back by them with ``orig_keys: mask``, and in the intensities of the input with
    ``orig_keys: image``.

    Args:
        keys: Keys of the images, ``(C, X, Y, Z)``.
        spatial_size: Voxels of the grid, one number or three.
        zoom: False: only crop and pad, and leave every voxel as it is.
        window_percentiles: Percentiles of the brain's voxels that become 0 and 1.
        network_range: What the network sees of 0 and 1.
        label_keys: Keys of labels on the images' grid; they are interpolated.
        mask_mode: How the mask is put on the grid, as in FitToGridd.
    Raises:
        ValueError: As the steps do.
    """

    def __init__(
        self,
        keys: KeysCollection,
        spatial_size: Sequence[int] | int,
        zoom: bool = True,
        window_percentiles: Sequence[float] = (0.5, 99.5),
        network_range: Sequence[float] = (-1.0, 1.0),
        label_keys: KeysCollection = (),
        mask_mode: str = "nearest",
    ) -> None:
        super().__init__(keys)
        self.settings = {
            "network_range": list(network_range),
            "zoom": zoom,
            "window_percentiles": list(window_percentiles),
            "spatial_size": [int(n) for n in ensure_tuple_rep(spatial_size, 3)],
        }
        """What a voxel of the result depends on."""
        every = (*self.keys, *ensure_tuple(label_keys), "mask")
        lower, upper = window_percentiles
        minimum, maximum = network_range
        self.steps: list[Any] = [
            AirToZerod(self.keys),
            Orientationd(every, "RAS", labels=_RAS),
            CropForegroundd(every, source_key="mask"),
            # after the crop, whose inverse then adds air of intensity 0
            WindowIntensityd(self.keys, lower=lower, upper=upper),
            FitToGridd(every, spatial_size, [*["trilinear"] * (len(every) - 1), mask_mode], zoom),
            ScaleToNetworkRanged(self.keys, minimum, maximum),
        ]

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for step in self.steps:
            d = step(d)
        return d

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        with allow_missing_keys_mode(tuple(self.steps)):  # what was made takes the place of one key alone
            for step in reversed(self.steps):
                d = step.inverse(d)
        return d
