"""Converts tumour labels to the regions that a segmentation is trained and evaluated on, and back."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from torch import Tensor

from monai_idm.data.label_maps import LABEL_MAPS, ROUNDING, LabelMap, label_numbers
from monai_idm.data.tracked import as_tensor

__all__ = ["LABEL_MAPS", "REGIONS", "LabelToRegionsd", "RegionsToLabeld"]

# the first part sets a region apart from those inside it; a label map may lack some of the parts
REGIONS: dict[str, tuple[str, ...]] = {
    "whole": ("oedema", "necrosis", "cyst", "enhancing"),
    "core": ("necrosis", "cyst", "enhancing"),
    "enhancing": ("enhancing",),
    "oedema": ("oedema",),
    "necrosis": ("necrosis",),
    "cyst": ("cyst",),
    "cavity": ("cavity",),  # left by a resection, not part of the tumour
    "lesion": ("lesion",),
}


class LabelToRegionsd(MapTransform):
    """Turn a label volume into one channel per region, 1 inside and 0 outside; regions may overlap.

    Args:
        keys: Keys of the labels, ``(1, *spatial)``; each becomes ``(len(regions), *spatial)``, float32.
        regions: Names in ``REGIONS``.
        label_map: A name in ``LABEL_MAPS``, or a map of your own, such as ``{"lesion": 1}``.
    Raises:
        ValueError: If a region or a map is unknown, or the map has no part of a region; when called, if a label is not
            in the map.
    """

    def __init__(
        self,
        keys: KeysCollection = "label",
        regions: Sequence[str] = ("whole",),
        label_map: LabelMap = "brats2020",
    ) -> None:
        super().__init__(keys)
        self.regions = tuple(regions)
        self.label_map = label_map
        self._labels = _labels(regions, label_map)
        self._known = torch.tensor([0, *label_numbers(label_map).values()])

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            d[key] = self._regions(as_tensor(d[key]))
        return d

    def _regions(self, label: Tensor) -> Tensor:
        if label.shape[0] != 1:
            raise ValueError(f"the label has the shape {tuple(label.shape)}; it must have one channel, (1, *spatial)")
        label = torch.where((label - label.round()).abs() <= ROUNDING, label.round(), label)
        present = torch.unique(label)
        unknown = present[~torch.isin(present, self._known.to(present))]
        if len(unknown):
            raise ValueError(
                f"labels {unknown.tolist()} are not in the map {self.label_map!r}, {label_numbers(self.label_map)}; "
                "choose the label_map of your data, or correct the file"
            )
        return torch.cat([torch.isin(label, label.new_tensor(labels)) for labels in self._labels]).to(torch.float32)


class RegionsToLabeld(MapTransform):
    """Turn one channel per region into a label volume with the numbers of the label map.

    Regions are painted from the largest to the smallest, each with the number of its first part in ``REGIONS``. If
    each region contains the next, as whole, core and enhancing do, :class:`LabelToRegionsd` recovers them. The whole
    tumour alone gets the number of oedema.

    Args:
        keys: Keys of the masks, ``(len(regions), *spatial)``, 0 or 1; each becomes ``(1, *spatial)``, uint8.
        regions: Names in ``REGIONS``, in the order of the masks' channels.
        label_map: A name in ``LABEL_MAPS``, or a map of your own.
    Raises:
        ValueError: If a region or a map is unknown, or the map has no part of a region; when called, if the channels
            do not match the regions.
    """

    def __init__(
        self,
        keys: KeysCollection = "pred",
        regions: Sequence[str] = ("whole",),
        label_map: LabelMap = "brats2020",
    ) -> None:
        super().__init__(keys)
        self.regions = tuple(regions)
        labels = _labels(regions, label_map)
        by_size = sorted(range(len(regions)), key=lambda i: -len(REGIONS[regions[i]]))
        self._numbers = [(i, labels[i][0]) for i in by_size]

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            masks = as_tensor(d[key])
            if len(masks) != len(self.regions):
                raise ValueError(
                    f"'{key}' has the shape {tuple(masks.shape)}; it must have a channel for each of the regions "
                    f"{', '.join(self.regions)}: give the regions used in training"
                )
            label = torch.zeros_like(masks[:1])
            for channel, number in self._numbers:
                label = torch.where(masks[channel : channel + 1] > 0.5, number, label)
            d[key] = label.to(torch.uint8)
        return d


def _labels(regions: Sequence[str], label_map: LabelMap) -> list[list[int]]:
    """The label numbers of each region, beginning with that of its first part."""
    numbers = label_numbers(label_map)
    unknown = [region for region in regions if region not in REGIONS]
    if unknown or not regions:
        raise ValueError(f"regions={tuple(regions)}; choose regions from {', '.join(REGIONS)}")
    labels = [[numbers[part] for part in REGIONS[region] if part in numbers] for region in regions]
    empty = [region for region, parts in zip(regions, labels, strict=True) if not parts]
    if empty:
        raise ValueError(
            f"the map {label_map!r} has {', '.join(numbers)}, none of which belongs to {', '.join(empty)}; "
            "choose other regions, or another label_map"
        )
    return labels
