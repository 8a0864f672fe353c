"""What sampling starts from, noise by number, and where its results lie in space."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from monai_idm.checkpoints import RunRecord

__all__ = ["DrawNoised", "PlaceOnTrainingGridd", "sample_list"]


def sample_list(num_samples: int, seed: int = 0) -> list[dict[str, Any]]:
    """A datalist of samples yet to be drawn: ``{"subject": "sample_000", "seed": ...}``.

    Args:
        num_samples: How many.
        seed: Sample i has seed ``seed + i``.
    """
    return [{"subject": f"sample_{seed + i:03d}", "seed": seed + i} for i in range(num_samples)]


class DrawNoised(MapTransform):
    """Normal noise by the item's seed, the same on every machine.

    Args:
        keys: Where to put it, ``(channels, *spatial_size)``.
        channels: Of the image.
        record: Of the checkpoint that samples.
        spatial_size: In voxels; None: that of the checkpoint's training.
    Raises:
        ValueError: When called, if neither argument nor checkpoint says the size.
    """

    def __init__(
        self, keys: KeysCollection, channels: int, record: RunRecord, spatial_size: Sequence[int] | None = None
    ) -> None:
        super().__init__(keys)
        self.channels = channels
        self.record = record
        self.spatial_size = spatial_size

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        size = self.spatial_size or _trained_on(self.record).get("spatial_size")
        if size is None:
            raise ValueError(
                "the checkpoint does not say on which grid it was trained; give the size of the samples in voxels with "
                "--spatial_size"
            )
        generator = torch.Generator().manual_seed(data["seed"])
        drawn = {key: MetaTensor(torch.randn(self.channels, *size, generator=generator)) for key in self.keys}
        return {**data, **drawn}


class PlaceOnTrainingGridd(MapTransform):
    """Give samples the affine of the grid that the network was trained on: RAS, isotropic, centred on the origin.

    Args:
        keys: Samples, ``(C, *spatial)``.
        record: Of the checkpoint that sampled; without a spacing in it, voxels are 1 mm.
    """

    def __init__(self, keys: KeysCollection, record: RunRecord) -> None:
        super().__init__(keys)
        self.record = record

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        spacing = _trained_on(self.record).get("spacing_mm", 1.0)
        placed = dict(data)
        for key in self.keys:
            sides = torch.tensor(data[key].shape[1:], dtype=torch.float64)
            affine = torch.eye(4, dtype=torch.float64) * spacing
            affine[:3, 3] = -spacing * (sides - 1) / 2
            affine[3, 3] = 1
            placed[key] = MetaTensor(data[key], affine=affine)
        return placed


def _trained_on(record: RunRecord) -> dict[str, Any]:
    return (record.loaded or {}).get("data", {})
