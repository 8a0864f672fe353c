"""Metrics of inpainted volumes over a split, inside the hole, with two fills as baselines."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from monai_idm.metrics.drawn import DrawnMetrics
from monai_idm.metrics.fills import harmonic_fill, mirrored_fill

__all__ = ["InpaintingMetrics"]


class InpaintingMetrics(DrawnMetrics):
    """Accumulate metrics of inpainted volumes over the cases of a split, in rows as in :class:`PairedMetrics`.

    The region is ``"hole"`` in place of ``"brain"``. The methods are ``"draw"``, with a row for each draw;
    ``"ensemble"``, the mean of several draws; and the baselines ``"harmonic"`` and ``"mirrored"``
    (:mod:`monai_idm.metrics.fills`).
    """

    title: ClassVar = "Inpainting"
    baselines_by_name: ClassVar = {
        "harmonic": "the smoothest fill, the solution of Laplace's equation.",
        "mirrored": "the other hemisphere.",
    }
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
        fills = {"harmonic": harmonic_fill(reference, hole), "mirrored": mirrored_fill(reference, hole)}
        self._add(subject, self._drawn_rows(draws, reference, hole > 0, fills))
