r"""Semantic synthesis: a brain is drawn that has the regions of a label map.

.. math:: \mathrm{pack}(x_t, c) = [x_t, c]

Each channel of the condition :math:`c` is a region, as its share of every voxel of the grid.

Source: Dorjsembe et al. 2024, arXiv:2305.18453 (Med-DDPM), which conditions in the same way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor

from monai_idm.data.label_table import read_label_table
from monai_idm.data.modalities import title_of
from monai_idm.tasks.task import Task

__all__ = ["SemanticSynthesis"]


class SemanticSynthesis(Task):
    """Draw the contrasts of a brain under the condition of its regions.

    The ``image`` of a batch holds the contrasts, and its ``label`` the regions, one channel each, from 0 to 1.

    Args:
        modalities: Names of the contrasts.
        labels: The numbers that each region has in label maps, by its name; see
            :func:`~monai_idm.data.read_label_table`.
        regression: Whether the contrasts are predicted in one pass, without noise.
    """

    name = "semantic"
    title = "BraTS MRI synthesis from label maps by invertible diffusion"
    description = "Draws the MRI of a brain that has the regions of a label map, by a reversible diffusion model"
    label_classes = "the regions named in the bundle's labels"
    defaults: ClassVar[Mapping[str, Any]] = {
        "modalities": ["t1"],
        "labels": {"necrosis": [1], "oedema": [2], "enhancing": [4]},
        "regression": False,
    }

    def __init__(
        self, modalities: Sequence[str], labels: Mapping[str, Sequence[int]], regression: bool = False
    ) -> None:
        self.modalities = list(modalities)
        self.labels = {name: list(numbers) for name, numbers in labels.items()}
        self.regression = regression

    @property
    def inputs(self) -> list[str]:
        return [*(f"noisy {name}" for name in self.drawn), *self.labels]

    @property
    def drawn(self) -> list[str]:
        return [title_of(name) for name in self.modalities]

    @classmethod
    def accepts(cls, setting: str, trained: Any, given: Any) -> bool:
        if setting == "labels":  # a table may be given as a file
            return read_label_table(given) == read_label_table(trained)
        return super().accepts(setting, trained, given)

    def image(self, batch: Mapping[str, Any]) -> Tensor:
        return batch["image"]

    def condition(self, batch: Mapping[str, Any]) -> Tensor:
        return batch["label"]
