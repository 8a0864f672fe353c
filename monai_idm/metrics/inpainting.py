"""Metrics of inpainted volumes over a split, inside the hole, with two fills as baselines."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from monai_idm.metrics.fills import harmonic_fill, mirrored_fill
from monai_idm.metrics.paired import PairedMetrics
from monai_idm.metrics.paired_table import paired_table
from monai_idm.metrics.volume import counted

__all__ = ["InpaintingMetrics"]

NOTES = {
    "draw": "single draws, their metrics averaged.",
    "ensemble": "the mean of all draws.",
    "harmonic": "the smoothest fill, the solution of Laplace's equation.",
    "mirrored": "the other hemisphere.",
}
METHODS = {  # by a scalar's prefix
    "": ["ensemble", "draw"],
    "draw_": ["draw"],
    "harmonic_": ["harmonic"],
    "mirrored_": ["mirrored"],
}


class InpaintingMetrics(PairedMetrics):
    """Accumulate metrics of inpainted volumes over the cases of a split, in rows as in :class:`PairedMetrics`.

    The region is ``"hole"`` in place of ``"brain"``. The methods are ``"draw"``, with a row for each draw;
    ``"ensemble"``, the mean of several draws; and the baselines ``"harmonic"`` and ``"mirrored"``
    (:mod:`monai_idm.metrics.fills`).
    """

    required: ClassVar = {"draws": "draws", "target": "reference", "hole": "hole"}
    optional: ClassVar[dict[str, str]] = {}
    inside: ClassVar = "hole"

    @torch.no_grad()
    def update(self, subject: str, draws: Tensor, reference: Tensor, hole: Tensor) -> None:
        """Add one case.

        Args:
            subject: Name of the case.
            draws: Drawn volumes, ``(N, C, D, H, W)``, equal to the reference around the hole.
            reference: The scanned volume, ``(C, D, H, W)``.
            hole: Mask of the hole, ``(1, D, H, W)``, above 0 inside.
        Raises:
            ValueError: If shapes do not match.
        """
        self._check_channels(subject, reference)
        if draws.ndim != 5 or draws.shape[1:] != reference.shape:
            raise ValueError(
                f"{subject}: draws of shape {tuple(draws.shape)}, a reference of {tuple(reference.shape)}; they must "
                "be (N, C, D, H, W) and (C, D, H, W)"
            )
        draws, reference, hole = (x.as_subclass(Tensor).cpu() for x in (draws, reference, hole))
        inside = counted(hole > 0)
        rows = [row for draw in draws for row in self._image_rows("draw", draw, reference, inside)]
        if len(draws) > 1:
            rows += self._image_rows("ensemble", draws.mean(0), reference, inside)
        for name, fill in (("harmonic", harmonic_fill), ("mirrored", mirrored_fill)):
            rows += self._image_rows(name, fill(reference, hole), reference, inside)
        self._add(subject, rows)

    def scalars(self) -> dict[str, float]:
        """The means by flat names, for ``engine.state.metrics``.

        Returns:
            ``psnr_t1_hole``, ``ssim_t1_hole``, ``mae_t1_hole`` for each modality, of the ensemble or, if there is only
            one draw, of the draw; the same for each method as ``draw_psnr_t1_hole``, ``harmonic_...`` and
            ``mirrored_...``; averaged over the modalities ``psnr_hole`` and so on; and
            ``psnr_hole_gain_over_harmonic`` in dB.
        """
        scalars = self._image_scalars(self.summary(), METHODS, averaged=list(METHODS))
        if "harmonic_psnr_hole" in scalars:
            scalars["psnr_hole_gain_over_harmonic"] = scalars["psnr_hole"] - scalars["harmonic_psnr_hole"]
        return scalars

    def table(self) -> str:
        """The summary as text of at most 110 columns for names of up to eight letters."""
        return paired_table("Inpainting", self.summary(), NOTES)
