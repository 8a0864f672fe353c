"""Channels by their names."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from monai.config import KeysCollection
from monai.transforms import MapTransform

__all__ = ["SelectChannelsd"]


class SelectChannelsd(MapTransform):
    """Keep some channels of a volume, in the order in which they are named; one may be named several times.

    Args:
        keys: Keys of the volumes, ``(C, *spatial)``.
        channels: Names of the C channels.
        select: Names of those to keep.
        allow_missing_keys: Pass over keys that an item lacks.
    Raises:
        ValueError: If a name is not one of the channels'; when called, if the volume has another number of channels.
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
