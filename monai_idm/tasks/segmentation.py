r"""Segmentation by diffusion: the mask is denoised, the images and where they lie in the head are the condition.

.. math:: \mathrm{pack}(x_t, c) = [x_t, c], \qquad \text{mask} = x_0 > 0

A mask is -1 outside and 1 inside. Other noise gives another mask: the mean over several draws is a better one, and
their variance says where they disagree.

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
    """The masks of regions, under the condition of MRI contrasts and coordinates.

    Of a batch, ``label`` holds the masks, 0 or 1, and ``image`` the condition.

    Args:
        modalities: Names of the contrasts.
        regions: Names of the regions, one channel of the mask each.
        label_map: What the numbers of labels mean, a name in ``LABEL_MAPS`` or a map.
        coordinates: Whether the condition says where each voxel lies.
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
        """Masks, 0 to 1."""
        return ((draws + 1) / 2).clamp(0, 1)

    def combined(self, draws: Tensor) -> Tensor:
        """The regions where the mean mask is inside, 0 or 1, float32."""
        return (draws.mean(1) > 0.5).to(torch.float32)


class DiffusionSegmentationInferer(DrawingInferer):
    """``(images and coordinates, network) -> masks``: a :class:`DrawingInferer` that is told only how many regions.

    Args:
        scheduler: Scheduler to sample with; its steps are taken as they are set.
        num_regions: Number of channels of the mask R.
        kwargs: ``num_draws``, ``window`` and ``seed`` of DrawingInferer.
    Raises:
        ValueError: As DrawingInferer.
    """

    def __init__(self, scheduler: Scheduler, num_regions: int = 1, **kwargs: Any) -> None:
        super().__init__(scheduler, Segmentation([], [f"region {i}" for i in range(num_regions)]), **kwargs)
