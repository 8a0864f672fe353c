"""Metrics of thin slices made of thick ones over a split, with the interpolated thick slices as a baseline."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from monai_idm.metrics.paired import PairedMetrics
from monai_idm.metrics.paired_table import paired_table
from monai_idm.metrics.volume import counted

__all__ = ["SuperResolutionMetrics"]

NOTES = {
    "draw": "single volumes, their metrics averaged over the draws.",
    "ensemble": "the mean of all draws.",
    "interpolated": "the thick slices, interpolated between their centres.",
}
METHODS = {"": ["ensemble", "draw"], "draw_": ["draw"], "interpolated_": ["interpolated"]}  # by a scalar's prefix


class SuperResolutionMetrics(PairedMetrics):
    """Accumulate metrics of thin slices over the cases of a split, in rows as in :class:`PairedMetrics`.

    The methods are ``"draw"``, with a row for each draw; ``"ensemble"``, the mean of several draws; and the baseline
    ``"interpolated"``, the network's condition.
    """

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
        inside = counted(mask)
        rows = [row for draw in draws for row in self._image_rows("draw", draw, reference, inside)]
        if len(draws) > 1:
            rows += self._image_rows("ensemble", draws.mean(0), reference, inside)
        rows += self._image_rows("interpolated", thick, reference, inside)
        self._add(subject, rows)

    def scalars(self) -> dict[str, float]:
        """The means by flat names, for ``engine.state.metrics``.

        Returns:
            ``psnr_t1_brain``, ``ssim_t1_brain``, ``mae_t1_brain`` for each modality and region, of the ensemble or, if
            there is only one draw, of the draw; the same for each method as ``draw_psnr_t1_brain`` and
            ``interpolated_...``; averaged over the modalities ``psnr_brain`` and so on; and
            ``psnr_brain_gain_over_interpolated`` in dB.
        """
        scalars = self._image_scalars(self.summary(), METHODS, averaged=list(METHODS))
        if "interpolated_psnr_brain" in scalars:
            scalars["psnr_brain_gain_over_interpolated"] = scalars["psnr_brain"] - scalars["interpolated_psnr_brain"]
        return scalars

    def table(self) -> str:
        """The summary as text of at most 110 columns for names of up to eight letters."""
        return paired_table("Super-resolution", self.summary(), NOTES)
