r"""Super-resolution: a brain with thin slices is drawn from one with thick slices.

.. math:: \mathrm{pack}(x_t, c) = [x_t, c]

The condition :math:`c` are the thick slices, interpolated to the grid of the thin ones.

Source: Saharia et al. 2021, arXiv:2104.07636, which conditions in the same way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor

from monai_idm.data.modalities import title_of
from monai_idm.tasks.task import Task

__all__ = ["SuperResolution"]


class SuperResolution(Task):
    """Draw a brain with thin slices under the condition of its thick slices.

    The ``target`` of a batch holds the contrasts with thin slices, and its ``image`` with thick ones, on the same grid,
    as :class:`~monai_idm.data.ThickSlicesd` prepares them.

    Args:
        modalities: Names of the contrasts.
        slices: Orientation of the slices: ``"axial"``, ``"coronal"`` or ``"sagittal"``.
        thickness_mm: Their thickness.
        regression: Whether the thin slices are predicted in one pass, without noise.
    """

    name = "super_resolution"
    title = "BraTS MRI super-resolution by invertible diffusion"
    description = "Makes thin slices of the thick slices of a brain MRI, by a reversible diffusion model"
    defaults: ClassVar[Mapping[str, Any]] = {
        "modalities": ["t1"],
        "slices": "axial",
        "thickness_mm": 12.0,
        "regression": False,
        "prediction_type": "sample",
    }

    def __init__(
        self, modalities: Sequence[str], slices: str = "axial", thickness_mm: float = 6.0, regression: bool = False
    ) -> None:
        self.modalities = list(modalities)
        self.slices = slices
        self.thickness_mm = thickness_mm
        self.regression = regression

    @property
    def inputs(self) -> list[str]:
        return [f"{state} {name}" for state in ("noisy", "thick slices of") for name in self.drawn]

    @property
    def drawn(self) -> list[str]:
        return [title_of(name) for name in self.modalities]

    def image(self, batch: Mapping[str, Any]) -> Tensor:
        return batch["target"]

    def condition(self, batch: Mapping[str, Any]) -> Tensor:
        return batch["image"]
