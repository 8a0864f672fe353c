"""Metrics between a volume and its reference; each of them is a row of ``METRICS``.

Rows of cases, CSV columns, statistics, scalars, printed tables and curves all follow from ``METRICS``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from torch import Tensor

from monai_idm.metrics.volume import SSIM_WINDOW, mae, masked_mean, ms_ssim, psnr, rmse, ssim_map

__all__ = ["METRICS", "REGIONS", "Comparison", "PairedMetric", "columns"]

# regions that are evaluated in each space: the brain mask, the whole volume
REGIONS = {"image": ("brain", "whole"), "noise": ("whole",)}


@dataclass
class Comparison:
    """A volume and its reference.

    Args:
        pred: Volume ``(C, D, H, W)``.
        reference: Reference of the same shape.
        data_range: Largest minus smallest value an image may have.
    """

    pred: Tensor
    reference: Tensor
    data_range: float = 1.0

    @cached_property
    def similarity(self) -> Tensor:
        """The SSIM map, computed once for all regions: it takes most of an evaluation's time."""
        return ssim_map(self.pred, self.reference, self.data_range)


class PairedMetric(NamedTuple):
    """A metric between a volume and its reference.

    Args:
        name: Name in tables.
        measure: Function of a comparison and a mask, or None for the whole volume, that returns the metric of each
            channel, ``(C,)``.
        form: Format of a value in tables, such as ``".2f"``.
        larger_is_better: Whether the larger of two values is the better one.
        unit: Unit, printed after the name; "" for a pure number.
        note: What the reader of a table must know, in a few words.
        spaces: Spaces in which the metric is defined: ``"image"``, ``"noise"`` or both.
        region: The only region in which it is defined; None: every region. A metric with a single region is printed
            below the table, and not averaged over the modalities.
        smallest_side: Smallest length of a volume's shortest axis in voxels; the metric of smaller volumes is None.
    """

    name: str
    measure: Callable[[Comparison, Tensor | None], Tensor]
    form: str
    larger_is_better: bool
    unit: str = ""
    note: str = ""
    spaces: tuple[str, ...] = ("image",)
    region: str | None = None
    smallest_side: int = 1

    @property
    def title(self) -> str:
        """The name with its unit."""
        return f"{self.name} [{self.unit}]" if self.unit else self.name

    def is_defined(self, space: str, region: str, volume: Tensor) -> bool:
        """Whether the metric of a volume ``(C, D, H, W)`` is defined in this space and region."""
        return space in self.spaces and self.region in (None, region) and min(volume.shape[1:]) >= self.smallest_side


METRICS: dict[str, PairedMetric] = {
    "psnr": PairedMetric("PSNR", lambda c, mask: psnr(c.pred, c.reference, mask, c.data_range), ".2f", True, "dB"),
    "ssim": PairedMetric(
        "SSIM",
        lambda c, mask: masked_mean(c.similarity, mask),
        ".4f",
        True,
        note=f"over windows of {SSIM_WINDOW}^3 voxels",
    ),
    "ms_ssim": PairedMetric(
        "MS-SSIM",
        lambda c, _: ms_ssim(c.pred, c.reference, c.data_range),
        ".4f",
        True,
        region="whole",
        smallest_side=64,
    ),
    "mae": PairedMetric("MAE", lambda c, mask: mae(c.pred, c.reference, mask), ".4f", False, spaces=("image", "noise")),
    "rmse": PairedMetric("RMSE", lambda c, mask: rmse(c.pred, c.reference, mask), ".4f", False, spaces=("noise",)),
}


def columns(space: str) -> dict[str, PairedMetric]:
    """The metrics of a space that are defined in every region: the columns of its table."""
    return {key: metric for key, metric in METRICS.items() if space in metric.spaces and metric.region is None}
