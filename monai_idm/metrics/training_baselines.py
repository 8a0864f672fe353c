r"""What a synthesised contrast has to beat: a table from intensities to intensities, and the mean image.

.. math:: y(s) = \frac{\sum_{i :\, s_i \in \mathrm{bin}(s)} y_i}{|\{i : s_i \in \mathrm{bin}(s)\}|}

over the brain voxels :math:`i` of the training cases, with the intensities :math:`s_i` of all known contrasts. It is
the best prediction from a voxel alone. A network that does not beat it has learned no anatomy.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor

__all__ = ["TrainingBaselines"]

_CASES = 64  # of the dataset, from the first on
_BINS = {1: 64, 2: 32, 3: 16}  # per contrast, so that a bin of all of them still holds voxels


class TrainingBaselines:
    """Lookup and mean image, learned from training cases when they are first asked for.

    Args:
        dataset: Preprocessed items with ``target`` ``(M, *spatial)`` and ``mask`` ``(1, *spatial)``.
        modalities: Names of the M contrasts.
        known: Names of those that are given; the others are predicted.
        network_range: Of the items' intensities, which become 0 to 1.
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
        """The mean training intensity at the intensities of the known contrasts.

        Args:
            images: The known contrasts, ``(known contrasts, *spatial)``, 0 to 1.
            mask: The brain, ``(1, *spatial)``; what is outside is 0.
        Returns:
            ``(unknown contrasts, *spatial)``, 0 to 1.
        """
        self._learn()
        inside = mask[0] > 0
        found = images.new_zeros((len(self.unknown), *images.shape[1:]))
        found[:, inside] = self._table[:, self._bin(images[:, inside])].to(found)
        return found

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
            where = self._bin(volume[self.known][:, inside])
            counts += torch.bincount(where, minlength=size)
            for number, channel in enumerate(volume[self.unknown]):
                sums[number] += torch.bincount(where, channel[inside].double(), size)
        if cases == 0:
            raise ValueError("no training case to learn the baselines from; give a dataset that holds some")
        self._table = self._means(sums, counts)
        self._mean = total / cases

    def _means(self, sums: Tensor, counts: Tensor) -> Tensor:
        """Means by bin; an empty bin takes that of the first known contrast's bin, or else of all."""
        shape = (self.bins, -1)
        rough = sums.unflatten(1, shape).sum(2) / counts.unflatten(0, shape).sum(1)
        everywhere = (sums.sum(1) / counts.sum())[:, None]
        rough = torch.where(rough.isnan(), everywhere, rough)
        fine = (sums / counts).unflatten(1, shape)
        return torch.where(fine.isnan(), rough[:, :, None], fine).flatten(1)

    def _bin(self, values: Tensor) -> Tensor:
        """The number of the bin of ``(known contrasts, V)`` values, the first contrast's digit first: ``(V,)``."""
        digits = (values.cpu() * self.bins).long().clamp(0, self.bins - 1)
        number = torch.zeros(values.shape[1:], dtype=torch.long)
        for digit in digits:
            number = number * self.bins + digit
        return number
