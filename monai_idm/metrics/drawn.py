"""Metrics of volumes that were drawn under a condition, once or several times, beside the baselines of the task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from monai_idm.metrics.paired import PairedMetrics
from monai_idm.metrics.paired_table import paired_table
from monai_idm.metrics.volume import counted

__all__ = ["DrawnMetrics"]

_NOTES = {
    "draw": "single volumes, their metrics averaged over the draws.",
    "ensemble": "the mean of all draws.",
}


class DrawnMetrics(PairedMetrics):
    """Rows as in :class:`PairedMetrics`, of draws, of their mean and of baselines; subclasses define the baselines.

    The methods are ``"draw"``, with a row for each draw; ``"ensemble"``, the mean of several draws; and the baselines.

    Attributes:
        title: Start of the table's caption.
        baselines_by_name: A note on each baseline by its name; the first is the one to beat.
    """

    title: ClassVar[str]
    baselines_by_name: ClassVar[Mapping[str, str]]

    def scalars(self) -> dict[str, float]:
        """The means by flat names, for ``engine.state.metrics``.

        Returns:
            ``psnr_t1_brain``, ``ssim_t1_brain``, ``mae_t1_brain`` for each modality and region, of the ensemble or, if
            there is only one draw, of the draw; the same for each method as ``draw_psnr_t1_brain`` and, for a baseline
            ``lookup``, ``lookup_psnr_t1_brain``; averaged over the modalities ``psnr_brain``, ``draw_psnr_brain`` and
            so on; and the gain over the first baseline in dB, ``psnr_brain_gain_over_lookup``.
        """
        methods = {
            "": ["ensemble", "draw"],
            "draw_": ["draw"],
            **{f"{name}_": [name] for name in self.baselines_by_name},
        }
        scalars = self._image_scalars(self.summary(), methods, averaged=list(methods))
        ours, first = f"psnr_{self.inside}", next(iter(self.baselines_by_name))
        if f"{first}_{ours}" in scalars:
            scalars[f"{ours}_gain_over_{first}"] = scalars[ours] - scalars[f"{first}_{ours}"]
        return scalars

    def table(self) -> str:
        """The summary as text of at most 110 columns for names of up to eight letters."""
        return paired_table(self.title, self.summary(), {**_NOTES, **self.baselines_by_name})

    def _drawn_rows(
        self, draws: Tensor, reference: Tensor, mask: Tensor, baselines: Mapping[str, Tensor]
    ) -> list[dict[str, Any]]:
        """Rows of draws ``(N, C, D, H, W)`` and of baselines ``(C, D, H, W)``, by name, against a reference."""
        inside = counted(mask)
        rows = [row for draw in draws for row in self._image_rows("draw", draw, reference, inside)]
        if len(draws) > 1:
            rows += self._image_rows("ensemble", draws.mean(0), reference, inside)
        for name, volume in baselines.items():
            rows += self._image_rows(name, volume, reference, inside)
        return rows
