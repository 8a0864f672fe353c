"""Metrics of synthesised contrasts over a split, with an intensity lookup and the mean image as baselines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from monai_idm.metrics.paired import PairedMetrics
from monai_idm.metrics.paired_table import paired_table
from monai_idm.metrics.training_baselines import TrainingBaselines
from monai_idm.metrics.volume import counted

__all__ = ["SynthesisMetrics"]

NOTES = {
    "draw": "single volumes, their metrics averaged over the draws.",
    "ensemble": "the mean of all draws.",
    "lookup": "mean intensity in the training cases where the known contrasts have the same intensities.",
    "mean_image": "the mean of the training cases.",
}
METHODS = {  # by a scalar's prefix
    "": ["ensemble", "draw"],
    "draw_": ["draw"],
    "lookup_": ["lookup"],
    "mean_image_": ["mean_image"],
}


class SynthesisMetrics(PairedMetrics):
    """Accumulate metrics of synthesised contrasts over the cases of a split, in rows as in :class:`PairedMetrics`.

    The methods are ``"draw"``, with a row for each draw; ``"ensemble"``, the mean of several draws; and the baselines
    ``"lookup"`` and ``"mean_image"``.

    Args:
        modalities: Names of the channels in order.
        known: Names of the contrasts that were known; they are not evaluated.
        baselines: Baselines from the training cases; None: no baselines.
    Raises:
        ValueError: If modalities are named twice, or all are known.
    """

    required: ClassVar = {"draws": "draws", "target": "reference", "mask": "mask"}
    optional: ClassVar[dict[str, str]] = {}

    def __init__(
        self,
        modalities: Sequence[str],
        known: Sequence[str],
        baselines: TrainingBaselines | None = None,
    ) -> None:
        super().__init__([name for name in modalities if name not in known])
        self.all = tuple(modalities)
        self.baselines = baselines

    @torch.no_grad()
    def update(self, subject: str, draws: Tensor, reference: Tensor, mask: Tensor) -> None:
        """Add one case.

        Args:
            subject: Name of the case.
            draws: Drawn volumes, ``(N, M, D, H, W)``, one channel per modality.
            reference: The scanned contrasts, ``(M, D, H, W)``.
            mask: Brain mask, ``(1, D, H, W)``.
        Raises:
            ValueError: If shapes do not match.
        """
        if draws.ndim != 5 or draws.shape[1:] != reference.shape or len(reference) != len(self.all):
            raise ValueError(
                f"{subject}: draws of shape {tuple(draws.shape)}, a reference of {tuple(reference.shape)}; "
                f"they must be (N, M, D, H, W) and (M, D, H, W) with the M = {len(self.all)} modalities {self.all}"
            )
        draws, reference, mask = (x.as_subclass(Tensor).cpu() for x in (draws, reference, mask))
        unknown = [self.all.index(name) for name in self.modalities]
        truth = reference[unknown]
        inside = counted(mask)
        rows = [row for draw in draws for row in self._image_rows("draw", draw[unknown], truth, inside)]
        if len(draws) > 1:
            rows += self._image_rows("ensemble", draws.mean(0)[unknown], truth, inside)
        if self.baselines is not None:
            looked_up = self.baselines.lookup(reference[self.baselines.known], mask)
            rows += self._image_rows("lookup", looked_up, truth, inside)
            rows += self._image_rows("mean_image", self.baselines.mean_image(), truth, inside)
        self._add(subject, rows)

    def scalars(self) -> dict[str, float]:
        """The means by flat names, for ``engine.state.metrics``.

        Returns:
            ``psnr_t2_brain``, ``ssim_t2_brain``, ``mae_t2_brain`` for each unknown modality and region, of the ensemble
            or, if there is only one draw, of the draw; the same for each method as ``draw_psnr_t2_brain``,
            ``lookup_...`` and ``mean_image_...``; averaged over the modalities ``psnr_brain``, ``draw_psnr_brain`` and
            so on; and ``psnr_brain_gain_over_lookup`` in dB.
        """
        scalars = self._image_scalars(self.summary(), METHODS, averaged=list(METHODS))
        if "lookup_psnr_brain" in scalars:
            scalars["psnr_brain_gain_over_lookup"] = scalars["psnr_brain"] - scalars["lookup_psnr_brain"]
        return scalars

    def table(self) -> str:
        """The summary as text of at most 110 columns for names of up to eight letters."""
        return paired_table("Synthesis", self.summary(), NOTES)
