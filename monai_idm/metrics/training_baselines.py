r"""Baselines that a synthesised contrast should beat: a lookup by intensity, and the mean image.

.. math:: y(s) = \frac{\sum_{i :\, s_i \in \mathrm{bin}(s)} y_i}{|\{i : s_i \in \mathrm{bin}(s)\}|}

over the brain voxels :math:`i` of the training cases, with the intensities :math:`s_i` of all known contrasts. The
lookup is the best prediction from a single voxel. A network that does not beat it has learned no anatomy.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor

__all__ = ["TrainingBaselines"]

_CASES = 64  # most cases that are used, from the start of the dataset
_BINS = {1: 64, 2: 32, 3: 16}  # bins per contrast, by the number of known ones: joint bins must still hold voxels


class TrainingBaselines:
    """Lookup and mean image, computed from training cases on first use.

    Args:
        dataset: Preprocessed cases with ``target`` ``(M, *spatial)`` and ``mask`` ``(1, *spatial)``.
        modalities: Names of the M contrasts.
        known: Names of the known contrasts; the others are predicted.
        network_range: Range of the cases' intensities, which is mapped to 0 to 1.
    Raises:
        ValueError: On first use, if the dataset is empty.
    """

    def __init__(
        self,
        dataset: Iterable[Mapping[Hashable, Any]],
        modalities: Sequence[str],
        known: Sequence[str],
        network_range: Sequence[float] = (-1.0, 1.0),
    ) -> None:
        self.dataset = dataset
        self.known = [i for i, name in enumerate(modalities) if name in known]
        self.unknown = [i for i, name in enumerate(modalities) if name not in known]
        self.network_range = tuple(network_range)
        self.bins = _BINS.get(len(self.known), 8)
        self._mean: Tensor | None = None

    def mean_image(self) -> Tensor:
        """The mean of the training cases, ``(unknown contrasts, *spatial)``, 0 to 1."""
        self._learn()
        assert self._mean is not None
        return self._mean

    def lookup(self, images: Tensor, mask: Tensor) -> Tensor:
        """The mean training intensity of voxels with the same intensities of the known contrasts.

        Args:
            images: The known contrasts, ``(known contrasts, *spatial)``, 0 to 1.
            mask: Brain mask, ``(1, *spatial)``; the prediction is 0 outside.
        Returns:
            ``(unknown contrasts, *spatial)``, 0 to 1.
        """
        self._learn()
        inside = mask[0] > 0
        predicted = images.new_zeros((len(self.unknown), *images.shape[1:]))
        predicted[:, inside] = self._table[:, self._bin(images[:, inside])].to(predicted)
        return predicted

    def _learn(self) -> None:
        if self._mean is not None:
            return
        size = self.bins ** len(self.known)
        sums, counts = torch.zeros(len(self.unknown), size, dtype=torch.float64), torch.zeros(size, dtype=torch.float64)
        total, cases = torch.zeros(()), 0
        for item in islice(iter(self.dataset), _CASES):
            low, high = self.network_range
            volume = (item["target"].as_subclass(Tensor).cpu() - low) / (high - low)
            inside = item["mask"].as_subclass(Tensor).cpu()[0] > 0
            total, cases = total + volume[self.unknown], cases + 1
            bins = self._bin(volume[self.known][:, inside])
            counts += torch.bincount(bins, minlength=size)
            for number, channel in enumerate(volume[self.unknown]):
                sums[number] += torch.bincount(bins, channel[inside].double(), size)
        if cases == 0:
            raise ValueError("no training case to learn the baselines from; give a dataset that holds some")
        self._table = self._means(sums, counts)
        self._mean = total / cases

    def _means(self, sums: Tensor, counts: Tensor) -> Tensor:
        """Means by bin; an empty bin gets that of the first contrast's bin, or, if this is empty too, of all voxels."""
        shape = (self.bins, -1)
        rough = sums.unflatten(1, shape).sum(2) / counts.unflatten(0, shape).sum(1)
        everywhere = (sums.sum(1) / counts.sum())[:, None]
        rough = torch.where(rough.isnan(), everywhere, rough)
        fine = (sums / counts).unflatten(1, shape)
        return torch.where(fine.isnan(), rough[:, :, None], fine).flatten(1)

    def _bin(self, values: Tensor) -> Tensor:
        """Numbers ``(V,)`` of the joint bins of values ``(known contrasts, V)``, the first contrast's digit first."""
        digits = (values.cpu() * self.bins).long().clamp(0, self.bins - 1)
        number = torch.zeros(values.shape[1:], dtype=torch.long)
        for digit in digits:
            number = number * self.bins + digit
        return number
