"""Metrics of inpainted volumes over a split, inside the hole, with two fills as baselines."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from monai_idm.metrics.drawn import DrawnMetrics

__all__ = ["InpaintingMetrics", "mirrored_fill"]


class InpaintingMetrics(DrawnMetrics):
    """Accumulate metrics of inpainted volumes over the cases of a split, in rows as in :class:`PairedMetrics`.

    The region is ``"hole"`` in place of ``"brain"``. The methods are ``"draw"``, with a row for each draw;
    ``"ensemble"``, the mean of several draws; and the baselines ``"harmonic"``, the smooth fill that the network was
    given, and ``"mirrored"``, the other hemisphere, which has the right texture, but not in the right place.
    """

    title: ClassVar = "Inpainting"
    baselines_by_name: ClassVar = {
        "harmonic": "the smoothest fill, the solution of Laplace's equation.",
        "mirrored": "the other hemisphere.",
    }
    required: ClassVar = {"draws": "draws", "target": "reference", "image": "harmonic", "hole": "hole"}
    optional: ClassVar[dict[str, str]] = {}
    inside: ClassVar = "hole"

    @torch.no_grad()
    def update(self, subject: str, draws: Tensor, reference: Tensor, harmonic: Tensor, hole: Tensor) -> None:
        """Add one case.

        Args:
            subject: Name of the case.
            draws: Drawn volumes, ``(N, C, D, H, W)``, equal to the reference around the hole.
            reference: The scanned volume, ``(C, D, H, W)``.
            harmonic: The volume with the hole filled smoothly, ``(C, D, H, W)``.
            hole: Mask of the hole, ``(1, D, H, W)``, above 0 inside.
        Raises:
            ValueError: If shapes do not match.
        """
        self._check_channels(subject, reference)
        if draws.ndim != 5 or not draws.shape[1:] == reference.shape == harmonic.shape:
            raise ValueError(
                f"{subject}: draws of shape {tuple(draws.shape)}, a reference of {tuple(reference.shape)}, a fill of "
                f"{tuple(harmonic.shape)}; they must be (N, C, D, H, W), and twice (C, D, H, W)"
            )
        draws, reference, harmonic, hole = (x.as_subclass(Tensor).cpu() for x in (draws, reference, harmonic, hole))
        fills = {"harmonic": harmonic, "mirrored": mirrored_fill(reference, hole)}
        self._add(subject, self._drawn_rows(draws, reference, hole > 0, fills))


def mirrored_fill(volume: Tensor, hole: Tensor) -> Tensor:
    """Fill a hole with the voxels on the other side of the volume's middle, left and right exchanged.

    Args:
        volume: Volume ``(C, D, H, W)`` in RAS, cropped to the brain, so that its middle is about that of the brain.
        hole: Mask ``(1, D, H, W)``, above 0 inside.
    """
    return torch.where(hole > 0, volume.flip(1), volume)
