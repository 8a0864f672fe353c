"""Quality of volumes that have a reference: by case, modality, region and method, and over the cases of a split."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from monai_idm.metrics.case_rows import CaseRows
from monai_idm.metrics.statistics import described
from monai_idm.metrics.volume import mae, masked_mean, ms_ssim, psnr, ssim_map

__all__ = ["PairedMetrics", "mean_of_all", "paired_row"]

METRICS = {"image": ("psnr", "ssim", "ms_ssim", "mae"), "noise": ("mae", "rmse")}


class PairedMetrics(CaseRows):
    """Rows of PSNR (dB), SSIM, MS-SSIM and MAE; which methods they are of, a subclass says.

    Every case gives rows per modality, region and method. The regions are ``"brain"``, the case's mask, and
    ``"whole"``, the whole volume. MS-SSIM has the whole volume alone, of 64 voxels a side or more; else it is None.

    Args:
        modalities: Names of the channels in order, as ``("t1", "t2")``.
        data_range: Largest minus smallest value an image may have; images lie in ``[0, data_range]``.
    Raises:
        ValueError: If there is no modality, or one is named twice.
    """

    def __init__(self, modalities: Sequence[str], data_range: float = 1.0) -> None:
        super().__init__()
        self.modalities = tuple(modalities)
        if not self.modalities or len(set(self.modalities)) != len(self.modalities):
            raise ValueError(f"modalities are {self.modalities}; name each channel once, as ('t1', 't2')")
        self.data_range = data_range

    def summary(self) -> dict[str, Any]:
        """Statistics over the cases.

        Returns:
            ``summary[space][modality][region][method][metric]`` is a dict of ``mean``, ``sd``, ``n`` and ``ci95``, the
            95 % interval of the mean; a case of several rows, as of several draws, counts as their mean. Beside the
            spaces ``cases`` and ``data_range``.
        """
        result: dict[str, Any] = {"cases": len(self._cases), "data_range": self.data_range}
        for (space, modality, region, method, metric), series in self._series().items():
            place = result
            for folder in (space, modality, region, method):
                place = place.setdefault(folder, {})
            place[metric] = self._statistics(series, metric)
        return result

    def _series(self) -> dict[tuple[str, str, str, str, str], list[float]]:
        """One value per case, by space, modality, region, method and metric."""
        series: dict[tuple[str, str, str, str, str], list[float]] = {}
        for case in self._cases:
            values: dict[tuple[str, str, str, str, str], list[float]] = {}
            for row in case:
                for metric in METRICS[row["space"]]:
                    if row[metric] is not None:
                        path = (row["space"], row["modality"], row["region"], row["method"], metric)
                        values.setdefault(path, []).append(row[metric])
            for path, several in values.items():
                series.setdefault(path, []).append(sum(several) / len(several))
        return series

    def _statistics(self, series: Sequence[float], metric: str) -> dict[str, Any]:
        return described(series)

    def _image_rows(
        self, method: str, pred: Tensor, reference: Tensor, mask: Tensor, sigma: Tensor | None = None
    ) -> list[dict[str, Any]]:
        similarity = ssim_map(pred, reference, self.data_range)  # once: most of the time goes here
        figures = {
            region: {
                "psnr": psnr(pred, reference, inside, self.data_range).tolist(),
                "ssim": masked_mean(similarity, inside).tolist(),
                "mae": mae(pred, reference, inside).tolist(),
            }
            for region, inside in (("brain", mask), ("whole", None))
        }
        if min(reference.shape[1:]) >= 64:
            figures["whole"]["ms_ssim"] = ms_ssim(pred, reference, self.data_range).tolist()
        return [
            paired_row(
                modality,
                "image",
                region,
                method,
                **{metric: channels[c] for metric, channels in metrics.items()},
                sigma_voxels=None if sigma is None else float(sigma[c]),
            )
            for c, modality in enumerate(self.modalities)
            for region, metrics in figures.items()
        ]

    def _check_channels(self, subject: str, reference: Tensor) -> None:
        if reference.shape[0] != len(self.modalities):
            raise ValueError(
                f"{subject}: a volume of shape {tuple(reference.shape)} came; the first axis must be the "
                f"{len(self.modalities)} modalities {self.modalities}"
            )


def paired_row(modality: str, space: str, region: str, method: str, **figures: float | None) -> dict[str, Any]:
    """One row, None where a figure is not defined."""
    empty: dict[str, Any] = dict.fromkeys(("psnr", "ssim", "ms_ssim", "mae", "rmse", "sigma_voxels"))
    return {"modality": modality, "space": space, "region": region, "method": method} | empty | figures


def mean_of_all(name: str, parts: Sequence[float | None]) -> dict[str, float]:
    """The mean under ``name``, or nothing where a part is missing."""
    known = [part for part in parts if part is not None]
    complete = len(known) > 0 and len(known) == len(parts)
    return {name: sum(known) / len(known)} if complete else {}
