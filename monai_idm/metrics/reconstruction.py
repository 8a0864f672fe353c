"""Metrics of reconstructions over a split, with the best Gaussian blur as a baseline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from monai_idm.metrics.baselines import best_gaussian_blur
from monai_idm.metrics.comparison import METRICS, Comparison
from monai_idm.metrics.paired import PairedMetrics, mean_of_all
from monai_idm.metrics.paired_table import paired_table
from monai_idm.metrics.volume import counted

__all__ = ["ReconstructionMetrics"]

NOTES = {
    "reconstruction": "denoised from the noisy volume with all steps of the sampler.",
    "one_step": "the image that the network predicts from the noisy volume in a single pass.",
    "gaussian_blur": "the best blur of the noisy volume, chosen against the reference inside the brain.",
}
METHODS = {"": ["reconstruction"], "one_step_": ["one_step"], "blur_": ["gaussian_blur"]}  # by a scalar's prefix


class ReconstructionMetrics(PairedMetrics):
    """Accumulate metrics of reconstructions over the cases of a split, in rows as in :class:`PairedMetrics`.

    The methods are ``"reconstruction"``, all steps of the sampler, and, if :meth:`update` is given what they need,
    ``"one_step"``, the image that the first pass of the network predicts, and ``"gaussian_blur"``, the best blur of the
    noisy volume (:func:`~monai_idm.metrics.best_gaussian_blur`, chosen in the brain). If it is given the noise and its
    prediction, rows with ``space="noise"`` hold their MAE and RMSE over the whole volume, in standard deviations of the
    noise; PSNR and SSIM are not defined there.

    Args:
        modalities: Names of the channels in order, such as ``("t1", "t2")``.
        data_range: Largest minus smallest value an image may have; images lie in ``[0, data_range]``.
        paper_batch_size: Number of cases in a batch of the paper, which reports the best batch. Besides the mean over
            the split, which is the figure to compare, each statistic holds the best mean over this many consecutive
            cases, ``best_batch_of_<paper_batch_size>`` (``None`` for fewer cases).
    Raises:
        ValueError: If there is no modality, one is named twice, or ``paper_batch_size`` is not positive.
    """

    required: ClassVar = {"pred": "pred", "image": "reference", "mask": "mask"}  # item of a case: argument of update
    optional: ClassVar = {
        "noisy": "noisy",
        "one_step": "one_step",
        "noise": "noise",
        "noise_pred": "predicted_noise",
    }

    def __init__(self, modalities: Sequence[str], data_range: float = 1.0, paper_batch_size: int = 2) -> None:
        super().__init__(modalities, data_range)
        if paper_batch_size < 1:
            raise ValueError(f"paper_batch_size is {paper_batch_size}; it is a number of cases, 1 or more")
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
        one_step: Tensor | None = None,
    ) -> None:
        """Add one case.

        Args:
            subject: Name of the case.
            pred: Reconstruction, ``(C, D, H, W)``, one channel per modality.
            reference: Original of the same shape.
            mask: Brain mask, ``(1, D, H, W)`` or ``(C, D, H, W)``.
            noisy: Noisy volume on the image's scale that ``pred`` was reconstructed from; ``None``: no blur.
            noise: Noise that was added; ``None``: no rows in noise space.
            predicted_noise: The network's prediction of the noise; ``None``: no rows in noise space.
            one_step: Image of the same shape that a single pass predicts; ``None``: no rows of this method.
        Raises:
            ValueError: If the channels are not the modalities, shapes do not match, the mask is empty, or the
                volume is smaller than SSIM's window.
        """
        self._check_channels(subject, reference)
        inside = counted(mask)
        rows = self._image_rows("reconstruction", pred, reference, inside)
        if one_step is not None:
            rows += self._image_rows("one_step", one_step.clamp(0, self.data_range), reference, inside)
        if noisy is not None:
            blurred, sigma = best_gaussian_blur(noisy, reference, inside, value_range=(0.0, self.data_range))
            rows += self._image_rows("gaussian_blur", blurred, reference, inside, sigma)
        if noise is not None and predicted_noise is not None:
            rows += self._rows("noise", "reconstruction", Comparison(predicted_noise, noise))
        self._add(subject, rows)

    def scalars(self) -> dict[str, float]:
        """The means by flat names, for ``engine.state.metrics``.

        Returns:
            ``psnr_t1_brain``, ``ssim_t1_brain``, ``mae_t1_brain`` for each modality and region; the same for one step
            as ``one_step_psnr_t1_brain`` and for the blur as ``blur_psnr_t1_brain``; ``noise_mae_t1``,
            ``noise_rmse_t1``; averaged over the modalities ``psnr_brain``, ``ssim_brain``, ``mae_brain`` and the same
            with ``_whole``; and ``psnr_brain_gain_over_blur`` in dB.
        """
        summary = self.summary()
        scalars = self._image_scalars(summary, METHODS, averaged=[""])
        blur = mean_of_all("psnr", [scalars.get(f"blur_psnr_{m}_brain") for m in self.modalities])
        if blur:
            scalars["psnr_brain_gain_over_blur"] = scalars["psnr_brain"] - blur["psnr"]
        for modality, regions in summary.get("noise", {}).items():
            for metric, statistics in regions["whole"]["reconstruction"].items():
                scalars[f"noise_{metric}_{modality}"] = statistics["mean"]
        return scalars

    def table(self) -> str:
        """The summary as text of at most 110 columns for names of up to eight letters."""
        return paired_table("Reconstruction", self.summary(), NOTES)

    def _statistics(self, series: Sequence[float], metric: str) -> dict[str, Any]:
        size = self.paper_batch_size
        batches = torch.tensor(series[: len(series) // size * size], dtype=torch.float64).view(-1, size).mean(1)
        best = None
        if len(batches):
            best = float(batches.max() if METRICS[metric].larger_is_better else batches.min())
        return {**super()._statistics(series, metric), f"best_batch_of_{size}": best}
