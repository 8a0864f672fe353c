"""Dice and Hausdorff distance of drawn masks over a split, with thresholds of FLAIR as baselines."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import torch
from monai.data import MetaTensor
from monai.data.utils import affine_to_spacing
from monai.metrics import compute_dice, compute_hausdorff_distance
from torch import Tensor

from monai_idm.metrics.baselines import best_threshold, otsu_threshold
from monai_idm.metrics.case_rows import CaseRows
from monai_idm.metrics.statistics import describe
from monai_idm.metrics.table import aligned

__all__ = ["SegmentationMetrics"]

METRICS = ("dice", "hd95_mm")


class SegmentationMetrics(CaseRows):
    """Accumulate the Dice coefficient and the 95th percentile of the Hausdorff distance (mm) over the cases of a split.

    The rows of a case have ``method="draw"``, one for each drawn mask; ``"ensemble"``, the mean of several draws,
    thresholded at 0.5; and, for the whole tumour, ``"otsu"``, FLAIR above Otsu's threshold in the brain, and
    ``"best_threshold"``, FLAIR above the threshold with the best Dice. The Dice coefficient is 1 if mask and reference
    are both empty. The distance is None if either is empty; ``n`` in its statistics counts the cases that have one.

    Args:
        regions: Names of the mask's channels, such as ``("whole",)``.
        modalities: Names of the image's channels in order; without ``"flair"`` there are no threshold baselines.
    Raises:
        ValueError: If there is no region, or one is named twice.
    """

    required: ClassVar = {"draws": "draws", "label": "reference"}  # item of a case: argument of update
    optional: ClassVar = {"image": "image", "mask": "mask"}

    def __init__(self, regions: Sequence[str] = ("whole",), modalities: Sequence[str] = ()) -> None:
        super().__init__()
        self.regions = tuple(regions)
        if not self.regions or len(set(self.regions)) != len(self.regions):
            raise ValueError(f"regions are {self.regions}; name each mask channel once, such as ('core', 'whole')")
        self.modalities = tuple(modalities)

    @torch.no_grad()
    def update(
        self, subject: str, draws: Tensor, reference: Tensor, image: Tensor | None = None, mask: Tensor | None = None
    ) -> None:
        """Add one case.

        Args:
            subject: Name of the case.
            draws: Drawn masks, 0 to 1, ``(N, R, D, H, W)``.
            reference: Reference mask, 0 or 1, ``(R, D, H, W)``. A MetaTensor's affine gives the voxel size,
                which otherwise is 1 mm.
            image: Image whose first channels are the modalities, ``(C, D, H, W)``, for the thresholds.
            mask: Brain mask, ``(1, D, H, W)``, for the thresholds.
        Raises:
            ValueError: If the channels are not the regions, or shapes do not match.
        """
        if draws.ndim != 5 or draws.shape[1:] != reference.shape or len(reference) != len(self.regions):
            raise ValueError(
                f"{subject}: draws of shape {tuple(draws.shape)}, a reference of {tuple(reference.shape)}; "
                f"they must be (N, R, D, H, W) and (R, D, H, W) with the R = {len(self.regions)} regions {self.regions}"
            )
        spacing = affine_to_spacing(reference.affine).tolist() if isinstance(reference, MetaTensor) else [1.0] * 3
        truth, masks = _on_cpu(reference) > 0.5, _on_cpu(draws)
        rows = [row for m in masks for row in self._rows("draw", m > 0.5, truth, self.regions, spacing)]
        if len(masks) > 1:
            rows += self._rows("ensemble", masks.mean(0) > 0.5, truth, self.regions, spacing)
        if image is not None and mask is not None and "flair" in self.modalities and "whole" in self.regions:
            flair, brain = _on_cpu(image)[self.modalities.index("flair")], _on_cpu(mask)[0] > 0
            whole = truth[self.regions.index("whole")]
            thresholds = {"otsu": otsu_threshold(flair[brain])}
            if whole[brain].any():
                thresholds["best_threshold"] = best_threshold(flair[brain], whole[brain])
            for method, threshold in thresholds.items():
                bright = (flair > threshold) & brain
                rows += self._rows(method, bright[None], whole[None], ["whole"], spacing)
        self._add(subject, rows)

    def summary(self) -> dict[str, Any]:
        """Statistics over the cases.

        Returns:
            ``summary["regions"][region][method][metric]`` is a dict of ``mean``, ``sd``, ``n``, the number of cases in
            which the metric is defined, and ``ci95``, the 95 % interval of the mean. The draws of a case count as their
            mean. The summary also holds ``cases``, their number.
        """
        values: dict[tuple[str, str, str], list[float]] = {}
        for case in self._cases:
            for region in self.regions:
                for method in dict.fromkeys(row["method"] for row in case if row["region"] == region):
                    same = [row for row in case if (row["region"], row["method"]) == (region, method)]
                    for metric in METRICS:
                        series = values.setdefault((region, method, metric), [])
                        series += _mean([row[metric] for row in same if row[metric] is not None])
        regions: dict[str, Any] = {}
        for (region, method, metric), series in values.items():
            regions.setdefault(region, {}).setdefault(method, {})[metric] = describe(series)
        return {"cases": len(self._cases), "regions": regions}

    def scalars(self) -> dict[str, float]:
        """The means by flat names, for ``engine.state.metrics``.

        Returns:
            ``dice_whole`` and ``hd95_mm_whole`` for each region, of the ensemble or, if there is only one draw, of the
            draw; ``dice``, the mean over the regions; ``draw_dice``, of single draws; ``otsu_dice`` and
            ``best_threshold_dice``, of the thresholds.
        """
        scalars: dict[str, float] = {}
        regions = self.summary()["regions"]
        for region, methods in regions.items():
            for metric, statistics in (methods.get("ensemble") or methods["draw"]).items():
                scalars[f"{metric}_{region}"] = statistics["mean"]
            for baseline in ("otsu", "best_threshold"):
                if baseline in methods:
                    scalars[f"{baseline}_dice"] = methods[baseline]["dice"]["mean"]
        if regions:
            scalars["dice"] = sum(scalars[f"dice_{region}"] for region in regions) / len(regions)
            scalars["draw_dice"] = sum(m["draw"]["dice"]["mean"] for m in regions.values()) / len(regions)
        return scalars

    def table(self) -> str:
        """The summary as text."""
        summary = self.summary()
        cases = summary["cases"]
        if cases == 0:
            return "Segmentation, 0 cases\n(no case was evaluated)"
        lines = [["region", "method", "Dice", "HD95 [mm]", "of cases"]]
        for region, methods in summary["regions"].items():
            for method, statistics in methods.items():
                distance = statistics["hd95_mm"]
                cells = [_cell(statistics["dice"], ".3f"), _cell(distance, ".1f"), f"{distance['n']}"]
                lines.append([region, method, *cells])
        notes = [
            "Mean ± sd over the cases; HD95 over those, counted under 'of cases', with a nonempty mask and reference."
        ]
        if any("ensemble" in methods for methods in summary["regions"].values()):
            notes.append(
                "draw: single masks, their metrics averaged; ensemble: the mean of all draws, thresholded at 0.5."
            )
        if any("otsu" in methods for methods in summary["regions"].values()):
            notes.append("otsu: FLAIR in the brain above Otsu's threshold.")
            notes.append("best_threshold: FLAIR in the brain above the threshold that agrees best with the reference.")
        return "\n".join([f"Segmentation, {cases} case{'' if cases == 1 else 's'}", aligned(lines), *notes])

    def _rows(
        self, method: str, mask: Tensor, truth: Tensor, regions: Sequence[str], spacing: Sequence[float]
    ) -> Iterator[dict[str, Any]]:
        dice = compute_dice(mask[None], truth[None], ignore_empty=False)[0].tolist()
        for channel, region in enumerate(regions):
            pair = mask[None, channel : channel + 1], truth[None, channel : channel + 1]
            distance = math.nan  # MONAI warns about empty masks
            if pair[0].any() and pair[1].any():
                distance = float(compute_hausdorff_distance(*pair, True, percentile=95, spacing=spacing))
            yield {
                "region": region,
                "method": method,
                "dice": dice[channel],
                "hd95_mm": distance if math.isfinite(distance) else None,
                "volume_ml": float(pair[0].sum()) * math.prod(spacing) / 1000,
                "reference_ml": float(pair[1].sum()) * math.prod(spacing) / 1000,
            }


def _on_cpu(x: Tensor) -> Tensor:
    return x.as_subclass(Tensor).cpu().float()


def _mean(values: list[float]) -> list[float]:
    return [sum(values) / len(values)] if values else []


def _cell(statistics: dict[str, Any], form: str) -> str:
    if statistics["n"] == 0:
        return "-"
    return f"{statistics['mean']:{form}}" + ("" if statistics["sd"] is None else f" ± {statistics['sd']:{form}}")
