r"""Metrics of generated volumes, which have no reference: how similar to real volumes they are as a set.

- MMD (Gretton et al. 2012; MONAI's, with a linear kernel) of three simple features, each divided by its standard
  deviation over the real cases: ``intensity``, a histogram of the foreground; ``texture``, the logarithm of the power
  spectrum in bands of spatial frequency; ``layout``, the means of 4 x 4 x 4 blocks. 0: the same distribution.
- Histogram distance: Wasserstein-1 distance between the pooled foreground intensities, in units of the image.
- Diversity: mean SSIM of pairs of samples (MS-SSIM from 64 voxels a side). If it is above that of real pairs, the
  samples are too similar to each other.
- Nearest training case: root mean square distance on a grid of at most 32 voxels a side, to the case or its mirror
  image. If samples are much closer than real cases of another split are, training cases are being repeated.

Every figure is also computed for training cases in place of samples, against the same real cases.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from itertools import combinations, islice
from typing import Any, ClassVar

import torch
from monai.metrics.mmd import compute_mmd
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool3d

from monai_idm.metrics.case_rows import CaseRows
from monai_idm.metrics.table import aligned
from monai_idm.metrics.volume import ms_ssim, ssim3d

__all__ = ["FEATURES", "GenerationMetrics", "features"]

FEATURES = ("intensity", "texture", "layout")
FOREGROUND = 0.05  # share of the intensity range above which a voxel of any modality is foreground
BINS, BANDS = 32, 8  # of the histogram; of the spectrum
BLOCKS, COARSE = 4, 32  # a side: blocks of the layout; most voxels of the grid for nearest cases
CASES, PAIRED = 256, 10  # most real and most training cases that are used; volumes whose pairs are all compared
COLUMNS = {
    "mmd_intensity": ".3f",
    "mmd_texture": ".3f",
    "mmd_layout": ".3f",
    "histogram_distance": ".4f",
    "diversity_ssim": ".4f",
    "nearest_rmse": ".4f",
}


def features(volume: Tensor) -> dict[str, Tensor]:
    """The features that MMD compares, see the head of this module.

    Args:
        volume: Volume ``(C, D, H, W)``, 0 to 1.
    Returns:
        One-dimensional tensors by the names in ``FEATURES``.
    """
    inside = (volume > FOREGROUND).any(0)
    values = volume[:, inside] if inside.any() else volume.flatten(1)
    histograms = [torch.histc(channel, BINS, 0, 1) / channel.numel() for channel in values]
    power = torch.fft.rfftn(volume - volume.mean((1, 2, 3), keepdim=True), dim=(1, 2, 3)).abs().square()
    axes = [torch.fft.fftfreq(n) for n in volume.shape[1:3]] + [torch.fft.rfftfreq(volume.shape[3])]
    frequency = sum(f.square() for f in torch.meshgrid(*axes, indexing="ij")).sqrt()  # type: ignore[union-attr]
    band = (frequency * 2 * BANDS).long()
    spectrum = [power[:, band == number].mean(1) for number in range(BANDS)]
    return {
        "intensity": torch.stack(histograms).flatten(),
        "texture": torch.stack(spectrum).clamp(min=1e-8).log10().flatten(),
        "layout": adaptive_avg_pool3d(volume, BLOCKS).flatten(),
    }


class GenerationMetrics(CaseRows):
    """Accumulate generated volumes and compare them with real ones.

    Args:
        modalities: Names of the channels in order.
        real: Preprocessed cases that are not in the training split, with ``image`` ``(C, *spatial)``.
        training: Preprocessed cases of the training split, likewise. None, for example for a folder of other patients:
            figures that need training cases are left out.
        network_range: Range of the cases' intensities, which is mapped to 0 to 1.
    """

    required: ClassVar = {"pred": "volume"}
    optional: ClassVar[dict[str, str]] = {}

    def __init__(
        self,
        modalities: Sequence[str],
        real: Iterable[Mapping[Hashable, Any]],
        training: Iterable[Mapping[Hashable, Any]] | None,
        network_range: Sequence[float] = (-1.0, 1.0),
    ) -> None:
        super().__init__()
        self.modalities = tuple(modalities)
        self._sets = {"real": real, "training": training}
        self.network_range = tuple(network_range)
        self._described_sets: dict[str, list[dict[str, Any]]] = {}

    @torch.no_grad()
    def update(self, subject: str, volume: Tensor) -> None:
        """Add one sample.

        Args:
            subject: Name of the sample.
            volume: Generated volume ``(C, D, H, W)``, 0 to 1.
        Raises:
            ValueError: If the channels are not the modalities.
        """
        if volume.ndim != 4 or len(volume) != len(self.modalities):
            raise ValueError(
                f"{subject}: a volume of shape {tuple(volume.shape)}; it must be (C, D, H, W), a channel for each of "
                f"{', '.join(self.modalities)}"
            )
        self._cases.append([self._describe(subject, volume, len(self._cases))])

    def rows(self) -> list[dict[str, Any]]:
        """The nearest training case of each sample and of each real case; without training cases, only the samples."""
        rows: list[dict[str, Any]] = []
        if self._sets["training"] is None:
            return [{"case": n, "subject": c["subject"], "method": "generated"} for n, c in enumerate(self._samples())]
        for method, cases in (("generated", self._samples()), ("real", self._reference("real"))):
            for number, case in enumerate(cases if self._cases else []):
                nearest, distance = min(
                    (
                        (other["subject"], _distance(case["coarse"], other["coarse"]))
                        for other in self._reference("training")
                    ),
                    key=lambda pair: pair[1],
                )
                subject = case["subject"]
                row = {"case": number, "subject": subject, "method": method}
                rows.append({**row, "nearest_training_case": nearest, "nearest_rmse": distance})
        return rows

    def summary(self) -> dict[str, Any]:
        """The metrics described at the head of this module.

        Returns:
            ``summary["methods"][method][figure]``. The methods are ``"generated"`` and ``"real"``, training cases in
            place of samples (for ``nearest_rmse``, the real cases). A figure is None if there are too few volumes for
            it. The summary also holds the number of samples, ``cases``, and of ``real`` and ``training`` cases.
        """
        if not self._cases:
            return {"cases": 0}
        rows = self.rows()
        methods = {}
        sets = {"generated": self._samples(), "real": self._reference("training")}
        for method, cases in sets.items():
            if not cases:
                continue
            distances = [row["nearest_rmse"] for row in rows if row["method"] == method and "nearest_rmse" in row]
            nearest = sum(distances) / len(distances) if distances else None
            methods[method] = {**self._compare(cases, self._reference("real")), "nearest_rmse": nearest}
        return {
            "cases": len(self._cases),
            "real": len(self._reference("real")),
            "training": len(self._reference("training")),
            "methods": methods,
        }

    def scalars(self) -> dict[str, float]:
        """The figures of the samples by name, and those of real cases with the prefix ``real_``."""
        scalars: dict[str, float] = {}
        for method, figures in self.summary().get("methods", {}).items():
            prefix = "" if method == "generated" else "real_"
            scalars |= {f"{prefix}{name}": value for name, value in figures.items() if value is not None}
        return scalars

    def table(self) -> str:
        """The summary as text."""
        summary = self.summary()
        title = f"Generation, {summary['cases']} samples"
        if summary["cases"] == 0:
            return f"{title}\n(no sample was drawn)"
        lines = [["method", *COLUMNS]]
        for method, figures in summary["methods"].items():
            lines.append([method, *("-" if figures[k] is None else format(figures[k], f) for k, f in COLUMNS.items())])
        notes = [
            f"Compared with {summary['real']} real cases that are not in the training split.",
            "real: training cases in place of samples; its nearest_rmse is that of the real cases.",
            "MMD and histogram distance: 0 is best. diversity_ssim: mean over pairs; best if close to that of real.",
            "nearest_rmse: distance to the nearest training case; far below that of real: training cases are repeated.",
        ]
        return "\n".join([title, aligned(lines), *notes])

    def _samples(self) -> list[dict[str, Any]]:
        return [case for (case,) in self._cases]

    def _reference(self, name: str) -> list[dict[str, Any]]:
        """The cases of the set ``"real"`` or ``"training"``, described on first use; empty if it was not given."""
        cases = self._sets[name]
        if cases is None:
            return []
        if name not in self._described_sets:
            low, high = self.network_range
            self._described_sets[name] = [
                self._describe(str(item["subject"]), (item["image"] - low) / (high - low), number)
                for number, item in enumerate(islice(iter(cases), CASES))
            ]
            if not self._described_sets[name]:
                raise ValueError(f"no {name} case to compare samples with; give a dataset that holds some")
        return self._described_sets[name]

    def _describe(self, subject: str, volume: Tensor, number: int) -> dict[str, Any]:
        volume = volume.as_subclass(Tensor).detach().cpu().float().clamp(0, 1)
        depth, height, width = (min(n, COARSE) for n in volume.shape[1:])
        coarse = adaptive_avg_pool3d(volume, (depth, height, width))
        paired = volume if number < PAIRED else None
        return {"subject": subject, "features": features(volume), "coarse": coarse, "volume": paired}

    def _compare(self, cases: list[dict[str, Any]], real: list[dict[str, Any]]) -> dict[str, float | None]:
        figures: dict[str, float | None] = {}
        size = min(len(cases), len(real))  # MONAI's MMD needs two sets of the same size
        for name in FEATURES:
            of_real, of_samples = (torch.stack([c["features"][name] for c in some]).double() for some in (real, cases))
            figures[f"mmd_{name}"] = None
            if size > 1:
                spread = of_real.std(0)
                spread = spread.clamp(min=0.1 * float(spread.mean()) + 1e-6) * len(spread) ** 0.5
                # centring changes only the rounding errors
                a, b = ((x[:size] - of_real.mean(0)) / spread for x in (of_real, of_samples))
                figures[f"mmd_{name}"] = float(compute_mmd(a, b, None))
        pooled = [torch.stack([c["features"]["intensity"] for c in some]).mean(0) for some in (real, cases)]
        gap = (pooled[0] - pooled[1]).view(len(self.modalities), BINS).cumsum(1).abs().sum(1) / BINS
        figures["histogram_distance"] = float(gap.mean())
        volumes = [case["volume"] for case in cases if case["volume"] is not None]
        similarities = [_similarity(a, b) for a, b in combinations(volumes, 2)]
        figures["diversity_ssim"] = sum(similarities) / len(similarities) if similarities else None
        return figures


def _similarity(a: Tensor, b: Tensor) -> float:
    return float((ms_ssim if min(a.shape[1:]) >= 64 else ssim3d)(a, b).mean())


def _distance(a: Tensor, b: Tensor) -> float:
    # left and right are flipped to augment the training data
    return min(float((a - other).square().mean().sqrt()) for other in (b, b.flip(1)))
