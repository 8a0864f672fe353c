"""Metrics of synthesised contrasts over a split, with an intensity lookup and the mean image as baselines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from monai_idm.metrics.drawn import DrawnMetrics
from monai_idm.metrics.training_baselines import TrainingBaselines

__all__ = ["SynthesisMetrics"]


class SynthesisMetrics(DrawnMetrics):
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

    title: ClassVar = "Synthesis"
    baselines_by_name: ClassVar = {
        "lookup": "mean intensity in the training cases where the known contrasts have the same intensities.",
        "mean_image": "the mean of the training cases.",
    }
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
        baselines = {}
        if self.baselines is not None:
            baselines["lookup"] = self.baselines.lookup(reference[self.baselines.known], mask)
            baselines["mean_image"] = self.baselines.mean_image()
        self._add(subject, self._drawn_rows(draws[:, unknown], reference[unknown], mask, baselines))
