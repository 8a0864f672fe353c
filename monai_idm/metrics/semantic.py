r"""Metrics of brains drawn from label maps over a split, with a lookup from labels to intensities as a baseline.

.. math:: A = \arg\min_A \sum_v \lVert y_v - A\, [c_v, 1] \rVert^2

over the brain's voxels :math:`v` of the training cases: the best intensities that the shares :math:`c_v` of the regions
in a voxel alone can give. A network that does not beat it has learned regions, but no brains.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, ClassVar

import torch
from torch import Tensor

from monai_idm.metrics.drawn import DrawnMetrics

__all__ = ["LabelLookup", "SemanticMetrics"]

_CASES = 64  # most cases that a lookup is learned from, from the start of the dataset


class LabelLookup:
    """The lookup, learned from training cases on first use.

    Args:
        dataset: Preprocessed cases with ``image`` ``(C, *spatial)``, ``label`` ``(R, *spatial)`` and ``mask``.
        network_range: Range of the cases' intensities, which is mapped to 0 to 1.
    Raises:
        ValueError: On first use, if the dataset is empty.
    """

    def __init__(self, dataset: Iterable[Mapping[Hashable, Any]], network_range: Sequence[float] = (-1.0, 1.0)) -> None:
        self.dataset = dataset
        self.network_range = tuple(network_range)
        self._weights: Tensor | None = None

    def __call__(self, label: Tensor, mask: Tensor) -> Tensor:
        """The intensities, ``(C, *spatial)``, 0 to 1, and 0 outside the brain.

        Args:
            label: Shares of the regions, ``(R, *spatial)``.
            mask: Brain mask, ``(1, *spatial)``.
        """
        if self._weights is None:
            self._weights = self._learned()
        inside = mask[0] > 0
        found = label.new_zeros((self._weights.shape[1], *label.shape[1:]))
        found[:, inside] = (_with_one(label[:, inside]).T @ self._weights).T.clamp(0, 1).to(found)
        return found

    def _learned(self) -> Tensor:
        squares, products = torch.zeros(()), torch.zeros(())
        for item in islice(iter(self.dataset), _CASES):
            low, high = self.network_range
            image, label, mask = (item[key].as_subclass(Tensor).cpu() for key in ("image", "label", "mask"))
            inside = mask[0] > 0
            c, y = _with_one(label[:, inside]), ((image[:, inside] - low) / (high - low)).double()
            squares, products = squares + c @ c.T, products + c @ y.T
        if squares.ndim == 0:
            raise ValueError("no training case to learn the lookup from; give a dataset that holds some")
        return torch.linalg.pinv(squares, hermitian=True) @ products


def _with_one(label: Tensor) -> Tensor:
    return torch.cat([label, torch.ones_like(label[:1])]).double()


class SemanticMetrics(DrawnMetrics):
    """Accumulate metrics of brains drawn from label maps over the cases of a split, as in :class:`PairedMetrics`.

    The methods are ``"draw"``, with a row for each draw; ``"ensemble"``, the mean of several draws; and the baseline
    ``"lookup"``. The reference is the brain that a label map was made of: another brain with the same regions would be
    as good, so these figures have a limit below that of a reconstruction.

    Args:
        modalities: Names of the channels in order.
        lookup: Baseline from the training cases; None: no baseline.
    Raises:
        ValueError: If there is no modality, or one is named twice.
    """

    title: ClassVar = "Brains from label maps"
    baselines_by_name: ClassVar = {
        "lookup": "the best intensities for the shares of the regions in a voxel, from the training cases.",
    }
    required: ClassVar = {"draws": "draws", "image": "reference", "label": "label", "mask": "mask"}
    optional: ClassVar[dict[str, str]] = {}

    def __init__(self, modalities: Sequence[str], lookup: LabelLookup | None = None) -> None:
        super().__init__(modalities)
        self.lookup = lookup

    @torch.no_grad()
    def update(self, subject: str, draws: Tensor, reference: Tensor, label: Tensor, mask: Tensor) -> None:
        """Add one case.

        Args:
            subject: Name of the case.
            draws: Drawn volumes, ``(N, C, D, H, W)``, one channel per modality.
            reference: The brain of the label map, ``(C, D, H, W)``.
            label: Shares of the regions, ``(R, D, H, W)``.
            mask: Brain mask, ``(1, D, H, W)``.
        Raises:
            ValueError: If shapes do not match.
        """
        self._check_channels(subject, reference)
        draws, reference, label, mask = (x.as_subclass(Tensor).cpu() for x in (draws, reference, label, mask))
        baselines = {} if self.lookup is None else {"lookup": self.lookup(label, mask)}
        self._add(subject, self._drawn_rows(draws, reference, mask, baselines))
