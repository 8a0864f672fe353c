"""Quality of reconstructions over a split, by case and modality, beside the best Gaussian blur."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from monai_idm.metrics.baselines import best_gaussian_blur
from monai_idm.metrics.cases import CaseRows
from monai_idm.metrics.reconstruction_table import reconstruction_table
from monai_idm.metrics.volume import mae, masked_mean, psnr, rmse, ssim_map

__all__ = ["ReconstructionMetrics"]

IMAGE_METRICS = ("psnr", "ssim", "mae")
NOISE_METRICS = ("mae", "rmse")
LARGER_IS_BETTER = ("psnr", "ssim")


class ReconstructionMetrics(CaseRows):
    """Accumulate PSNR (dB), SSIM and MAE of reconstructions over the cases of a split.

    Every case gives one row per modality, region and method. The regions are ``"brain"``, the case's mask,
    and ``"whole"``, the whole volume; the methods are ``"reconstruction"`` and, where the noisy volume is
    known, ``"gaussian_blur"``, its best blur (:func:`~monai_idm.metrics.best_gaussian_blur`, chosen in the
    brain). Where the noise and its prediction are known, rows of ``space="noise"`` hold their MAE and RMSE
    over the whole volume, in standard deviations of the noise; PSNR and SSIM are not defined there.

    Args:
        modalities: Names of the channels in order, as ``("t1", "t2")``.
        data_range: Largest minus smallest value an image may have; images lie in ``[0, data_range]``.
        paper_batch_size: The paper reports the best results on a batch, with two cases in a batch. Besides
            the mean over the split, which is the figure to compare, the best mean over so many consecutive
            cases is given.
    Raises:
        ValueError: If there is no modality, one is named twice, or ``paper_batch_size`` is not positive.
    """

    required: ClassVar = {"pred": "pred", "image": "reference", "mask": "mask"}  # item of a case: argument of update
    optional: ClassVar = {"noisy": "noisy", "noise": "noise", "noise_pred": "predicted_noise"}

    def __init__(self, modalities: Sequence[str], data_range: float = 1.0, paper_batch_size: int = 2) -> None:
        super().__init__()
        self.modalities = tuple(modalities)
        if not self.modalities or len(set(self.modalities)) != len(self.modalities):
            raise ValueError(f"modalities are {self.modalities}; name each channel once, as ('t1', 't2')")
        if paper_batch_size < 1:
            raise ValueError(f"paper_batch_size is {paper_batch_size}; it is a number of cases, 1 or more")
        self.data_range = data_range
        self.paper_batch_size = paper_batch_size

    @torch.no_grad()
    def update(
        self,
        subject: str,
        pred: Tensor,
        reference: Tensor,
        mask: Tensor,
        noisy: Tensor | None = None,
        noise: Tensor | None = None,
        predicted_noise: Tensor | None = None,
    ) -> None:
        """Add one case.

        Args:
            subject: Name of the case.
            pred: Reconstruction, ``(C, D, H, W)``, one channel per modality.
            reference: The original, same shape.
            mask: The brain, ``(1, D, H, W)`` or ``(C, D, H, W)``.
            noisy: What was reconstructed from, on the image's scale; ``None``: no blur beside it.
            noise: The noise that was added, with ``predicted_noise``; ``None``: no rows in noise space.
            predicted_noise: The network's prediction of it.
        Raises:
            ValueError: If the channels are not the modalities, shapes do not fit, the mask is empty, or the
                volume is smaller than SSIM's window.
        """
        if reference.shape[0] != len(self.modalities):
            raise ValueError(
                f"{subject}: a volume of shape {tuple(reference.shape)} came; the first axis must be the "
                f"{len(self.modalities)} modalities {self.modalities}"
            )
        rows = self._image_rows("reconstruction", pred, reference, mask)
        if noisy is not None:
            blurred, sigma = best_gaussian_blur(noisy, reference, mask, value_range=(0.0, self.data_range))
            rows += self._image_rows("gaussian_blur", blurred, reference, mask, sigma)
        if noise is not None and predicted_noise is not None:
            rows += self._noise_rows(noise, predicted_noise)
        self._add(subject, rows)

    def summary(self) -> dict[str, Any]:
        """Statistics over the cases.

        Returns:
            ``summary[space][modality][region][method][metric]`` is a dict of ``mean``, ``sd`` (with n - 1;
            ``None`` for one case), ``n``, and ``best_batch_of_<paper_batch_size>`` (``None`` for fewer
            cases), the best mean over so many consecutive cases; beside the spaces ``cases``, ``data_range``
            and ``paper_batch_size``.
        """
        result: dict[str, Any] = {
            "cases": len(self._cases),
            "data_range": self.data_range,
            "paper_batch_size": self.paper_batch_size,
        }
        values: dict[tuple[str, ...], list[float]] = {}
        for row in self.rows():
            for metric in IMAGE_METRICS if row["space"] == "image" else NOISE_METRICS:
                path = (row["space"], row["modality"], row["region"], row["method"], metric)
                values.setdefault(path, []).append(row[metric])
        for (*folders, metric), series in values.items():
            place = result
            for folder in folders:
                place = place.setdefault(folder, {})
            place[metric] = self._statistics(series, metric in LARGER_IS_BETTER)
        return result

    def scalars(self) -> dict[str, float]:
        """The means by flat names, for ``engine.state.metrics``.

        Returns:
            ``psnr_t1_brain``, ``ssim_t1_brain``, ``mae_t1_brain`` for each modality and region; the same of
            the blur as ``blur_psnr_t1_brain``; ``noise_mae_t1``, ``noise_rmse_t1``; over the modalities
            ``psnr_brain``, ``ssim_brain``, ``mae_brain`` and the same ``_whole``; and
            ``psnr_brain_gain_over_blur`` in dB.
        """
        summary = self.summary()
        found: dict[str, float] = {}
        for modality, regions in summary.get("image", {}).items():
            for region, methods in regions.items():
                for method, prefix in (("reconstruction", ""), ("gaussian_blur", "blur_")):
                    for metric, statistics in methods.get(method, {}).items():
                        found[f"{prefix}{metric}_{modality}_{region}"] = statistics["mean"]
        for region in ("brain", "whole"):
            for metric in IMAGE_METRICS:
                parts = [found.get(f"{metric}_{modality}_{region}") for modality in self.modalities]
                found |= _mean_of_all(f"{metric}_{region}", parts)
        blur = _mean_of_all("psnr", [found.get(f"blur_psnr_{m}_brain") for m in self.modalities])
        if blur:
            found["psnr_brain_gain_over_blur"] = found["psnr_brain"] - blur["psnr"]
        for modality, regions in summary.get("noise", {}).items():
            for metric, statistics in regions["whole"]["reconstruction"].items():
                found[f"noise_{metric}_{modality}"] = statistics["mean"]
        return found

    def table(self) -> str:
        """The summary as text of at most 110 columns for names of up to eight letters."""
        return reconstruction_table(self.summary())

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
        return [
            _row(
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

    def _noise_rows(self, noise: Tensor, predicted: Tensor) -> list[dict[str, Any]]:
        absolute, squared = mae(predicted, noise).tolist(), rmse(predicted, noise).tolist()
        return [
            _row(modality, "noise", "whole", "reconstruction", mae=absolute[c], rmse=squared[c])
            for c, modality in enumerate(self.modalities)
        ]

    def _statistics(self, series: list[float], larger_is_better: bool) -> dict[str, Any]:
        values = torch.tensor(series, dtype=torch.float64)
        size = self.paper_batch_size
        batches = values[: len(series) // size * size].view(-1, size).mean(1)
        best = None
        if len(batches):
            best = float(batches.max() if larger_is_better else batches.min())
        sd = float(values.std()) if len(series) > 1 else None
        return {
            "mean": float(values.mean()),
            "sd": None if sd is None or math.isnan(sd) else sd,
            "n": len(series),
            f"best_batch_of_{size}": best,
        }


def _row(modality: str, space: str, region: str, method: str, **figures: float | None) -> dict[str, Any]:
    empty: dict[str, Any] = dict.fromkeys(("psnr", "ssim", "mae", "rmse", "sigma_voxels"))
    return {"modality": modality, "space": space, "region": region, "method": method} | empty | figures


def _mean_of_all(name: str, parts: Sequence[float | None]) -> dict[str, float]:
    """The mean under ``name``, or nothing where a part is missing."""
    known = [part for part in parts if part is not None]
    complete = len(known) > 0 and len(known) == len(parts)
    return {name: sum(known) / len(known)} if complete else {}
