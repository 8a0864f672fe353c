"""Selects the channels of a volume by name, or shows them all in one."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from monai.utils import convert_to_dst_type

from monai_idm.data.tracked import as_tensor

__all__ = ["ChannelsToGreyd", "SelectChannelsd"]


class SelectChannelsd(MapTransform):
    """Keep the named channels of a volume, in the order given; a name may be repeated.

    Args:
        keys: Keys of the volumes, ``(C, *spatial)``.
        channels: Names of the C channels.
        select: Names of the channels to keep.
        allow_missing_keys: Whether to skip keys that an item lacks.
    Raises:
        ValueError: If ``select`` names an unknown channel; when called, if a volume does not have C channels.
    """

    def __init__(
        self, keys: KeysCollection, channels: Sequence[str], select: Sequence[str], allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.channels = tuple(channels)
        if unknown := [name for name in select if name not in self.channels]:
            raise ValueError(f"no channel is named {', '.join(unknown)}; choose from {', '.join(self.channels)}")
        self.places = [self.channels.index(name) for name in select]

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            if len(d[key]) != len(self.channels):
                raise ValueError(
                    f"'{key}' has the shape {tuple(d[key].shape)}; it must have a channel for each of "
                    f"{', '.join(self.channels)}"
                )
            d[key] = d[key][self.places]
        return d


class ChannelsToGreyd(MapTransform):
    """Show the channels of a volume, each from 0 to 1, as shades of grey from dark to bright, for pictures.

    Args:
        keys: Keys of the volumes, ``(C, *spatial)``; each becomes ``(number, *spatial)``, 0 to 1.
        number: Number of equal channels of the result.
    """

    def __init__(self, keys: KeysCollection, number: int = 1) -> None:
        super().__init__(keys)
        self.number = number

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            channels = as_tensor(d[key])
            shades = torch.linspace(0, 1, len(channels) + 1, device=channels.device)[1:].view(-1, 1, 1, 1)
            grey = (channels * shades).sum(0, keepdim=True).expand(self.number, *channels.shape[1:])
            d[key] = convert_to_dst_type(grey, d[key], dtype=torch.float32)[0]
        return d
