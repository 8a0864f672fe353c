r"""Inpainting: a hidden region of a brain is drawn, and everything around it stays as it was scanned.

.. math:: \mathrm{pack}(x_t, [i, m]) = [\, m \odot x_t + (1 - m) \odot i,\ i,\ m \,], \qquad w = m

:math:`m = 1` marks the hole in the image :math:`i`, which is filled smoothly there. The network sees the known voxels
clean at every timestep, and is trained on the hidden ones alone, which are healthy tissue; in the place of a lesion it
draws what it has learned.

Source: Saharia et al. 2022, arXiv:2111.05826; the task is BraTS's local synthesis, Kofler et al. 2023,
arXiv:2305.08992.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from monai_idm.data.modalities import title_of
from monai_idm.tasks.task import Task

__all__ = ["Inpainting"]


class Inpainting(Task):
    """Draw a hidden region of a brain, with healthy tissue, under the condition of everything around it.

    The ``target`` of a batch holds the whole volumes, and its ``image`` the volumes with the region filled smoothly,
    followed by the region's mask, as :class:`~monai_idm.data.HideHoled` prepares them.

    Args:
        modalities: Names of the contrasts.
        regression: Whether the region is predicted in one pass, without noise.
    """

    name = "inpainting"
    title = "BraTS MRI inpainting by invertible diffusion"
    description = (
        "Replaces a region of a brain MRI, such as a lesion, by healthy tissue that fits around it, by a reversible "
        "diffusion model"
    )
    label_classes = "0: stays as it is; above 0: is replaced"
    defaults: ClassVar[Mapping[str, Any]] = {
        "modalities": ["t1"],
        "regression": False,
        "prediction_type": "sample",
    }

    def __init__(self, modalities: Sequence[str], regression: bool = False) -> None:
        self.modalities = list(modalities)
        self.regression = regression

    @property
    def inputs(self) -> list[str]:
        hole = [f"{name}, {how} in the hole" for how in ("noisy", "smooth") for name in self.drawn]
        return [*hole, "hole"]

    @property
    def drawn(self) -> list[str]:
        return [title_of(name) for name in self.modalities]

    def image(self, batch: Mapping[str, Any]) -> Tensor:
        return batch["target"]

    def condition(self, batch: Mapping[str, Any]) -> Tensor:
        return batch["image"]

    def pack(self, x_t: Tensor, condition: Tensor | None) -> dict[str, Tensor]:
        images, hole = self._parts(condition)
        return {"x": torch.cat([torch.where(hole > 0.5, x_t, images), images, hole], 1)}

    def weight(self, condition: Tensor | None) -> Tensor:
        images, hole = self._parts(condition)
        return hole.expand_as(images)

    def finished(self, draws: Tensor, condition: Tensor) -> Tensor:
        """The volumes as they were given, with the draws in the hole."""
        images, hole = self._parts(condition)
        return torch.where(hole[:, None] > 0.5, draws, images[:, None])

    def _parts(self, condition: Tensor | None) -> tuple[Tensor, Tensor]:
        expected = len(self.modalities) + 1
        if condition is None or condition.shape[1] != expected:
            raise ValueError(
                f"a condition of shape {None if condition is None else tuple(condition.shape)} for "
                f"{len(self.modalities)} contrasts; it must have {expected} channels, the contrasts and the hole: use "
                "HideHoled"
            )
        return condition[:, :-1], condition[:, -1:]
