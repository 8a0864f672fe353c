r"""Segmentation by diffusion: masks are drawn under the condition of MRI contrasts and voxel coordinates.

.. math:: \mathrm{pack}(x_t, c) = [x_t, c], \qquad \text{mask} = x_0 > 0

A mask is -1 outside and 1 inside. Different noise gives a different mask: the mean over several draws is more accurate
than one, and their variance shows where they disagree.

Source: Bieder et al. 2023, arXiv:2303.15288; Wolleb et al. 2021, arXiv:2112.03145.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from monai.networks.schedulers.scheduler import Scheduler
from torch import Tensor

from monai_idm.data.modalities import title_of
from monai_idm.tasks.drawing import DrawingInferer
from monai_idm.tasks.task import Task

__all__ = ["REGION_TITLES", "DiffusionSegmentationInferer", "Segmentation"]

REGION_TITLES = {
    "core": "tumour core",
    "whole": "whole tumour",
    "enhancing": "enhancing tumour",
    "oedema": "oedema",
    "necrosis": "necrosis",
    "cyst": "cystic part",
    "cavity": "resection cavity",
    "lesion": "lesion",
}
_AXES = ("left to right", "back to front", "down to up")


class Segmentation(Task):
    """Draw masks of tumour regions under the condition of MRI contrasts and voxel coordinates.

    The ``label`` of a batch holds the masks, 0 or 1, and its ``image`` the condition.

    Args:
        modalities: Names of the contrasts.
        regions: Names of the regions, one channel of the mask each.
        label_map: What the label values mean: a name in ``LABEL_MAPS``, or a mapping from names to values.
        coordinates: Whether the condition includes the coordinates of each voxel.
    """

    name = "segmentation"
    title = "BraTS MRI segmentation by invertible diffusion"
    description = (
        "Draws the mask of a brain tumour under the condition of MRI contrasts, by a reversible diffusion model"
    )
    label_classes = "BraTS's labels"
    defaults: ClassVar[Mapping[str, Any]] = {
        "modalities": ["t1", "t1ce", "t2", "flair"],
        "regions": ["whole"],
        "label_map": "brats2020",
        "coordinates": True,
        "prediction_type": "sample",
    }

    def __init__(
        self,
        modalities: Sequence[str],
        regions: Sequence[str],
        label_map: str | Mapping[str, int] = "brats2020",
        coordinates: bool = True,
    ) -> None:
        self.modalities = list(modalities)
        self.regions = list(regions)
        self.label_map = label_map
        self.coordinates = coordinates

    @property
    def inputs(self) -> list[str]:
        condition = [title_of(name) for name in self.condition_channels]
        return [*(f"noisy mask of the {region}" for region in self.drawn), *condition]

    @property
    def condition_channels(self) -> list[str]:
        """Names of the condition's channels."""
        return [*self.modalities, *(f"coordinate, {axis}" for axis in _AXES if self.coordinates)]

    @property
    def drawn(self) -> list[str]:
        return [REGION_TITLES.get(region, region) for region in self.regions]

    def image(self, batch: Mapping[str, Any]) -> Tensor:
        return 2 * batch["label"] - 1

    def condition(self, batch: Mapping[str, Any]) -> Tensor:
        return batch["image"]

    def finished(self, draws: Tensor, condition: Tensor) -> Tensor:
        """Masks with values from 0 to 1."""
        return ((draws + 1) / 2).clamp(0, 1)

    def combined(self, draws: Tensor) -> Tensor:
        """Masks that are 1 where the mean over the draws is above 0.5, and 0 elsewhere; float32."""
        return (draws.mean(1) > 0.5).to(torch.float32)


class DiffusionSegmentationInferer(DrawingInferer):
    """``(images and coordinates, network) -> masks``: a :class:`DrawingInferer` for R regions, without a task.

    Args:
        scheduler: Scheduler to sample with, at the timesteps that are set in it.
        num_regions: Number of regions R, which are the channels of the mask.
        kwargs: ``num_draws``, ``window`` and ``seed`` of DrawingInferer.
    Raises:
        ValueError: As in DrawingInferer.
    """

    def __init__(self, scheduler: Scheduler, num_regions: int = 1, **kwargs: Any) -> None:
        super().__init__(scheduler, Segmentation([], [f"region {i}" for i in range(num_regions)]), **kwargs)
