"""Metrics of thin slices made of thick ones over a split, with the interpolated thick slices as a baseline."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from monai_idm.metrics.drawn import DrawnMetrics

__all__ = ["SuperResolutionMetrics"]


class SuperResolutionMetrics(DrawnMetrics):
    """Accumulate metrics of thin slices over the cases of a split, in rows as in :class:`PairedMetrics`.

    The methods are ``"draw"``, with a row for each draw; ``"ensemble"``, the mean of several draws; and the baseline
    ``"interpolated"``, the network's condition.
    """

    title: ClassVar = "Super-resolution"
    baselines_by_name: ClassVar = {
        "interpolated": "the thick slices, interpolated between their centres.",
    }
    required: ClassVar = {"draws": "draws", "target": "reference", "image": "thick", "mask": "mask"}
    optional: ClassVar[dict[str, str]] = {}

    @torch.no_grad()
    def update(self, subject: str, draws: Tensor, reference: Tensor, thick: Tensor, mask: Tensor) -> None:
        """Add one case.

        Args:
            subject: Name of the case.
            draws: Drawn volumes, ``(N, C, D, H, W)``, one channel per modality.
            reference: The scanned volume with thin slices, ``(C, D, H, W)``.
            thick: Its thick slices, interpolated, of the same shape.
            mask: Brain mask, ``(1, D, H, W)``.
        Raises:
            ValueError: If shapes do not match.
        """
        self._check_channels(subject, reference)
        self._add(subject, self._drawn_rows(draws, reference, mask, {"interpolated": thick}))
