"""A volume beside its reference, and what is measured between them: a paired metric is a row of ``METRICS``.

Rows, CSV columns, statistics, scalars, tables and curves follow from the table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from torch import Tensor

from monai_idm.metrics.volume import SSIM_WINDOW, mae, masked_mean, ms_ssim, psnr, rmse, ssim_map

__all__ = ["METRICS", "REGIONS", "Comparison", "PairedMetric", "columns"]

# by space, the regions that are judged there: the brain mask, the whole volume
REGIONS = {"image": ("brain", "whole"), "noise": ("whole",)}


@dataclass
class Comparison:
    """A volume and its reference.

    Args:
        pred: ``(C, D, H, W)``.
        reference: Same shape.
        data_range: Largest minus smallest value an image may have.
    """

    pred: Tensor
    reference: Tensor
    data_range: float = 1.0

    @cached_property
    def similarity(self) -> Tensor:
        """SSIM's map, made once for all regions: most of an evaluation's time goes here."""
        return ssim_map(self.pred, self.reference, self.data_range)


class PairedMetric(NamedTuple):
    """One metric.

    Args:
        name: As in tables.
        measure: The metric by channel, ``(C,)``, of a comparison, inside a mask or, with None, everywhere.
        form: Format of a value in tables.
        larger_is_better: Which of two values is the better one.
        unit: Printed behind the name; "" for a pure number.
        note: What the reader of a table must know, in a few words.
        spaces: Where it is defined: of images, of noise.
        region: The only region where it is defined; None: in each. Such a metric is printed below the table, and is
            not averaged over the modalities.
        smallest_side: Voxels on the shortest axis that a volume must have; None is reported for smaller ones.
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
        """Whether there is a value for a volume ``(C, D, H, W)`` in a space and region."""
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
    """The metrics of a space that every region has."""
    return {key: metric for key, metric in METRICS.items() if space in metric.spaces and metric.region is None}
