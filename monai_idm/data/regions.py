"""Tumour labels as regions, which a segmentation is trained on and judged by, and regions as labels again."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from monai.utils import convert_to_tensor
from torch import Tensor

__all__ = ["LABEL_MAPS", "REGIONS", "LabelToRegionsd", "RegionsToLabeld"]

# what each collection's numbers mean; 0 is everything else
LABEL_MAPS: dict[str, dict[str, int]] = {
    "brats2020": {"necrosis": 1, "oedema": 2, "enhancing": 4},  # 2018 to 2021
    "brats2023": {"necrosis": 1, "oedema": 2, "enhancing": 3},
    "decathlon": {"oedema": 1, "necrosis": 2, "enhancing": 3},
}
# the first part is what a region has and those inside it have not
REGIONS: dict[str, tuple[str, ...]] = {
    "whole": ("oedema", "necrosis", "enhancing"),
    "core": ("necrosis", "enhancing"),
    "enhancing": ("enhancing",),
    "oedema": ("oedema",),
    "necrosis": ("necrosis",),
}


class LabelToRegionsd(MapTransform):
    """Turn a label volume into one channel per region, 1 inside and 0 outside; regions may overlap.

    Args:
        keys: Keys of the labels, ``(1, *spatial)``; each becomes ``(len(regions), *spatial)``, float32.
        regions: Of ``REGIONS``.
        label_map: Name in ``LABEL_MAPS``.
        allow_missing_keys: Pass over keys that an item lacks.
    Raises:
        ValueError: If a region or a map is unknown; when called, if a label is not in the map.
    """

    def __init__(
        self,
        keys: KeysCollection = "label",
        regions: Sequence[str] = ("whole",),
        label_map: str = "brats2020",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        _check(regions, label_map)
        self.regions = tuple(regions)
        self.label_map = label_map
        of = LABEL_MAPS[label_map]
        self._labels = [[of[part] for part in REGIONS[region]] for region in regions]
        self._known = torch.tensor([0, *of.values()])

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            d[key] = self._regions(convert_to_tensor(d[key], track_meta=isinstance(d[key], MetaTensor)))
        return d

    def _regions(self, label: Tensor) -> Tensor:
        if label.shape[0] != 1:
            raise ValueError(f"a label of shape {tuple(label.shape)}; it must have one channel, (1, *spatial)")
        found = torch.unique(label)
        strange = found[~torch.isin(found, self._known.to(found))]
        if len(strange):
            raise ValueError(
                f"labels {strange.tolist()} are not in the map {self.label_map!r}, {LABEL_MAPS[self.label_map]}; "
                f"choose the map of your data, one of {', '.join(LABEL_MAPS)}, or mend the file"
            )
        return torch.cat([torch.isin(label, label.new_tensor(labels)) for labels in self._labels]).to(torch.float32)


class RegionsToLabeld(MapTransform):
    """Turn one channel per region into a label volume with the collection's numbers.

    Regions are painted from the largest to the smallest, each with the number of its first part in ``REGIONS``: where
    one region holds the next, as whole, core and enhancing do, :class:`LabelToRegionsd` gives them back. The whole
    tumour alone becomes the number of oedema.

    Args:
        keys: Keys of the masks, ``(len(regions), *spatial)``, 0 or 1; each becomes ``(1, *spatial)``, uint8.
        regions: Of ``REGIONS``, the masks' channels.
        label_map: Name in ``LABEL_MAPS``.
        allow_missing_keys: Pass over keys that an item lacks.
    Raises:
        ValueError: If a region or a map is unknown; when called, if the channels are not the regions.
    """

    def __init__(
        self,
        keys: KeysCollection = "pred",
        regions: Sequence[str] = ("whole",),
        label_map: str = "brats2020",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        _check(regions, label_map)
        self.regions = tuple(regions)
        by_size = sorted(range(len(regions)), key=lambda i: -len(REGIONS[regions[i]]))
        self._numbers = [(i, LABEL_MAPS[label_map][REGIONS[regions[i]][0]]) for i in by_size]

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            masks = convert_to_tensor(d[key], track_meta=isinstance(d[key], MetaTensor))
            if len(masks) != len(self.regions):
                raise ValueError(
                    f"'{key}' has the shape {tuple(masks.shape)}; it must have a channel for each of the regions "
                    f"{', '.join(self.regions)}: give the regions of the training"
                )
            label = torch.zeros_like(masks[:1])
            for channel, number in self._numbers:
                label = torch.where(masks[channel : channel + 1] > 0.5, number, label)
            d[key] = label.to(torch.uint8)
        return d


def _check(regions: Sequence[str], label_map: str) -> None:
    unknown = [region for region in regions if region not in REGIONS]
    if unknown or not regions or label_map not in LABEL_MAPS:
        raise ValueError(
            f"regions={tuple(regions)}, label_map={label_map!r}; choose regions from {', '.join(REGIONS)}, and a "
            f"map from {', '.join(LABEL_MAPS)}"
        )
