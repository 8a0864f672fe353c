"""Preprocesses a loaded head for the network: the brain on its grid and in its range of intensities, and back."""

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
    """Set air to 0, reorient to RAS, crop to the brain, window, fit to the grid, and scale to the network's range.

    ``self.steps`` holds these transforms in order. The item's ``mask``, as LoadVolumesd leaves it, and labels go
    through the spatial steps only. Applied to a network's output, ``Invertd`` therefore undoes only these with
    ``orig_keys: mask``, and with ``orig_keys: image`` it also restores the intensities of the input.

    Args:
        keys: Keys of the images, ``(C, X, Y, Z)``.
        spatial_size: Voxels of the grid, one number or three.
        zoom: Whether to resize to the grid; False: only crop and pad, which keeps every voxel as it is.
        window_percentiles: Percentiles of the brain's voxels that become 0 and 1.
        network_range: Values of 0 and 1 for the network.
        label_keys: Keys of labels on the images' grid; they are interpolated.
        mask_mode: How the mask is resized to the grid: ``mode`` of FitToGridd.
    Raises:
        ValueError: If one of the steps raises it.
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
        """The settings that the voxels of the result depend on."""
        all_keys = (*self.keys, *ensure_tuple(label_keys), "mask")
        lower, upper = window_percentiles
        minimum, maximum = network_range
        self.steps: list[Any] = [
            AirToZerod(self.keys),
            Orientationd(all_keys, "RAS", labels=_RAS),
            CropForegroundd(all_keys, source_key="mask"),
            # after the crop, so that the 0 with which the crop's inverse pads is air
            WindowIntensityd(self.keys, lower=lower, upper=upper),
            FitToGridd(all_keys, spatial_size, [*["trilinear"] * (len(all_keys) - 1), mask_mode], zoom),
            ScaleToNetworkRanged(self.keys, minimum, maximum),
        ]

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for step in self.steps:
            d = step(d)
        return d

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        with allow_missing_keys_mode(tuple(self.steps)):  # Invertd passes one key only
            for step in reversed(self.steps):
                d = step.inverse(d)
        return d
