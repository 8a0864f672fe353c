"""Metrics of volumes that have a reference: for each case, modality, region and method, and over a split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor

from monai_idm.metrics.case_rows import CaseRows
from monai_idm.metrics.comparison import METRICS, REGIONS, Comparison, columns
from monai_idm.metrics.statistics import describe

__all__ = ["PairedMetrics", "mean_of_all"]


class PairedMetrics(CaseRows):
    """Rows of the paired metrics, ``METRICS``; subclasses define the methods that are compared.

    Every case has rows for each modality, region and method. The regions are the case's mask, named ``inside``, and
    ``"whole"``, the whole volume. A metric is None where it is not defined, such as MS-SSIM of volumes with fewer than
    64 voxels a side.

    Attributes:
        inside: What the mask of a case marks: ``"brain"``, unless a subclass says otherwise.

    Args:
        modalities: Names of the channels in order, such as ``("t1", "t2")``.
        data_range: Largest minus smallest value an image may have; images lie in ``[0, data_range]``.
    Raises:
        ValueError: If there is no modality, or one is named twice.
    """

    inside: ClassVar[str] = "brain"

    def __init__(self, modalities: Sequence[str], data_range: float = 1.0) -> None:
        super().__init__()
        self.modalities = tuple(modalities)
        if not self.modalities or len(set(self.modalities)) != len(self.modalities):
            raise ValueError(f"modalities are {self.modalities}; name each channel once, such as ('t1', 't2')")
        self.data_range = data_range

    def summary(self) -> dict[str, Any]:
        """Statistics over the cases.

        Returns:
            ``summary[space][modality][region][method][metric]`` is a dict of ``mean``, ``sd``, ``n`` and ``ci95``, the
            95 % interval of the mean. A case with several rows, one for each draw, counts as their mean. The summary
            also holds ``cases``, their number, and ``data_range``.
        """
        result: dict[str, Any] = {"cases": len(self._cases), "data_range": self.data_range}
        for (space, modality, region, method, metric), series in self._series().items():
            place = result
            for level in (space, modality, region, method):
                place = place.setdefault(level, {})
            place[metric] = self._statistics(series, metric)
        return result

    def _series(self) -> dict[tuple[str, str, str, str, str], list[float]]:
        """One value per case, by space, modality, region, method and metric."""
        series: dict[tuple[str, str, str, str, str], list[float]] = {}
        for case in self._cases:
            values: dict[tuple[str, str, str, str, str], list[float]] = {}
            for row in case:
                for metric in METRICS:
                    if row[metric] is not None:
                        key = (row["space"], row["modality"], row["region"], row["method"], metric)
                        values.setdefault(key, []).append(row[metric])
            for key, of_case in values.items():
                series.setdefault(key, []).append(sum(of_case) / len(of_case))
        return series

    def _statistics(self, series: Sequence[float], metric: str) -> dict[str, Any]:
        return describe(series)

    def _image_rows(
        self, method: str, pred: Tensor, reference: Tensor, mask: Tensor, sigma: Tensor | None = None
    ) -> list[dict[str, Any]]:
        return self._rows("image", method, Comparison(pred, reference, self.data_range), mask, sigma)

    def _rows(
        self, space: str, method: str, pair: Comparison, mask: Tensor | None = None, sigma: Tensor | None = None
    ) -> list[dict[str, Any]]:
        measured = {
            region: {
                key: metric.measure(pair, mask if region == self.inside else None)
                if metric.is_defined(space, region, pair.reference)
                else [None] * len(self.modalities)
                for key, metric in METRICS.items()
            }
            for region in self._regions(space)
        }
        return [
            {
                **{"modality": modality, "space": space, "region": region, "method": method},
                **{key: channels[c] for key, channels in metrics.items()},
                "sigma_voxels": None if sigma is None else sigma[c],
            }
            for c, modality in enumerate(self.modalities)
            for region, metrics in measured.items()
        ]

    def _image_scalars(
        self, summary: dict[str, Any], methods: Mapping[str, Sequence[str]], averaged: Sequence[str]
    ) -> dict[str, float]:
        """The means of image space by flat names.

        Args:
            summary: Summary of these metrics.
            methods: For each prefix of a name, methods in order of preference; the first that was measured is used.
            averaged: Prefixes for which means over the modalities are added.
        Returns:
            ``<prefix><metric>_<modality>_<region>`` and ``<prefix><metric>_<region>``.
        """
        scalars: dict[str, float] = {}
        for modality, regions in summary.get("image", {}).items():
            for region, measured in regions.items():
                for prefix, names in methods.items():
                    for name in [name for name in names if name in measured][:1]:
                        for metric, statistics in measured[name].items():
                            scalars[f"{prefix}{metric}_{modality}_{region}"] = statistics["mean"]
        for prefix in averaged:
            for region in self._regions("image"):
                for metric in columns("image"):
                    name = f"{prefix}{metric}"
                    parts = [scalars.get(f"{name}_{modality}_{region}") for modality in self.modalities]
                    scalars |= mean_of_all(f"{name}_{region}", parts)
        return scalars

    def _regions(self, space: str) -> list[str]:
        return [self.inside if region == "brain" else region for region in REGIONS[space]]

    def _check_channels(self, subject: str, reference: Tensor) -> None:
        if reference.shape[0] != len(self.modalities):
            raise ValueError(
                f"{subject}: a volume of shape {tuple(reference.shape)}; its first axis must be the "
                f"{len(self.modalities)} modalities {self.modalities}"
            )


def mean_of_all(name: str, parts: Sequence[float | None]) -> dict[str, float]:
    """The mean of the parts under ``name``; empty if a part is missing."""
    known = [part for part in parts if part is not None]
    complete = len(known) > 0 and len(known) == len(parts)
    return {name: sum(known) / len(known)} if complete else {}
