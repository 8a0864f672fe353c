r"""Metrics of generated volumes, which have no reference: how similar to real volumes they are as a set.

- MMD (Gretton et al. 2012, unbiased, with a linear kernel) of three simple features, each divided by its standard
  deviation over the real cases: ``intensity``, a histogram of the foreground; ``texture``, the logarithm of the power
  spectrum in bands of spatial frequency; ``layout``, the means of 4 x 4 x 4 blocks. 0: the same distribution.
- Histogram distance: Wasserstein-1 distance between the pooled foreground intensities, in units of the image.
- Diversity: mean MS-SSIM of pairs of samples, at as many scales as the volume has room for (3 at 32^3, 4 at 64^3). If
  it is above that of real pairs, the samples are too similar to each other.
- Nearest training case: root mean square distance on a grid of at most 32 voxels a side, to the case or its mirror
  image; its mean and median, and the share of samples that are nearer than the nearest 5 % of real cases that were not
  trained on. If samples are much nearer than those, training cases are being repeated.

The figures of the samples stand beside those of real volumes. Distances from the real cases are computed for training
cases in place of samples; diversity and distances to the nearest training case for the real cases themselves.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from itertools import islice
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool3d

from monai_idm.metrics.case_rows import CaseRows
from monai_idm.metrics.diversity import scales_that_fit
from monai_idm.metrics.set_figures import diversity, nearness, set_distances
from monai_idm.metrics.table import aligned
from monai_idm.metrics.volume_features import FEATURES, features

__all__ = ["GenerationMetrics"]

COARSE = 32  # most voxels a side of the grid for nearest cases
CASES, PAIRED = 256, 32  # most real and most training cases that are used; most real cases whose pairs are compared
COLUMNS = {
    "mmd_intensity": ".3f",
    "mmd_texture": ".3f",
    "mmd_layout": ".3f",
    "histogram_distance": ".4f",
    "diversity_ms_ssim": ".4f",
    "nearest_rmse": ".4f",
    "nearest_rmse_median": ".4f",
    "share_too_near": ".2f",
}


class GenerationMetrics(CaseRows):
    """Accumulate generated volumes and compare them with real ones.

    Args:
        modalities: Names of the channels in order.
        real: Preprocessed cases that are not in the training split, with ``image`` ``(C, *spatial)``.
        training: Preprocessed cases of the training split, likewise. None, for example for a folder of other patients:
            figures that need training cases are left out.
        network_range: Range of the cases' intensities, which is mapped to 0 to 1.
        max_pairs: Most pairs of samples, and of real cases, that diversity is a mean of.
    """

    required: ClassVar = {"pred": "volume"}
    optional: ClassVar[dict[str, str]] = {}

    def __init__(
        self,
        modalities: Sequence[str],
        real: Sequence[Mapping[Hashable, Any]],
        training: Sequence[Mapping[Hashable, Any]] | None,
        network_range: Sequence[float] = (-1.0, 1.0),
        max_pairs: int = 100,
    ) -> None:
        super().__init__()
        self.modalities = tuple(modalities)
        self._sets = {"real": real, "training": training}
        self.network_range = tuple(network_range)
        self.max_pairs = max_pairs
        self._described_sets: dict[str, list[dict[str, Any]]] = {}
        self._rows: list[dict[str, Any]] | None = None
        self._summary: dict[str, Any] | None = None

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
        self._cases.append([_described(subject, volume, keep=True)])
        self._forget()

    def reset(self) -> None:
        """Forget all samples."""
        super().reset()
        self._forget()

    def gather(self) -> None:
        """Pool the samples of all processes, see :meth:`CaseRows.gather`."""
        super().gather()
        self._forget()

    def rows(self) -> list[dict[str, Any]]:
        """The nearest training case of each sample and of each real case, and whether it is the mirror image that is
        nearest; without training cases, only the samples."""
        if self._rows is None:
            self._rows = self._nearest()
        return self._rows

    def nearest_volumes(self) -> dict[str, Tensor]:
        """The sample that is nearest to a training case, this case, and the same for the real cases, for a picture.

        Returns:
            Four volumes ``(C, D, H, W)``, 0 to 1, by headings that name them, the training cases mirrored if their
            mirror image is nearest; none without samples or training cases.
        """
        volumes: dict[str, Tensor] = {}
        for method in ("generated", "real"):
            rows = [row for row in self.rows() if row["method"] == method and "nearest_rmse" in row]
            for row in sorted(rows, key=lambda row: row["nearest_rmse"])[:1]:
                subject, nearest = row["subject"], row["nearest_training_case"]
                own = self._samples()[row["case"]]["volume"].float() if method == "generated" else None
                volumes[f"{method}: {subject}"] = self._volume("real", subject) if own is None else own
                training = self._volume("training", nearest)
                volumes[f"{nearest}, RMSE {row['nearest_rmse']:.4f}"] = (
                    training.flip(1) if row["mirrored"] else training
                )
        return volumes

    def summary(self) -> dict[str, Any]:
        """The metrics described at the head of this module.

        Returns:
            ``summary["methods"][method][figure]``. The methods are ``"generated"`` and ``"real"``, the real volumes
            beside them. A figure is None if there are too few volumes for it, and left out if it needs training cases
            and there are none.
            ``summary["by_number"][method][number][figure]`` shows how it depends on the number of volumes, for a
            quarter and half of the number of samples and for all: ``mean`` and ``sd_of_subsets`` of 8 random subsets.
            The summary also holds the number of samples, ``cases``, and of ``real`` and ``training`` cases, and the
            number of ``scales`` of MS-SSIM.
        """
        if not self._cases:
            return {"cases": 0}
        if self._summary is None:
            self._summary = self._summarized()
        return self._summary

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
            cells = [(figures.get(name), form) for name, form in COLUMNS.items()]
            lines.append([method, *("-" if value is None else format(value, form) for value, form in cells)])
        notes = [
            f"Compared with {summary['real']} real cases that are not in the training split.",
            "real: for MMD and histogram distance, training cases in place of samples; else the real cases themselves.",
            "MMD and histogram distance: 0 is best.",
            f"diversity_ms_ssim: mean over pairs, at {summary['scales']} scales; lower: more diverse; best if close to "
            "that of real.",
            "nearest_rmse: distance to the nearest training case; far below that of real: training cases are repeated.",
            "share_too_near: samples that are nearer to a training case than the nearest 5 % of the real cases.",
        ]
        return "\n".join([title, aligned(lines), *notes])

    def _forget(self) -> None:
        self._rows = self._summary = None

    def _samples(self) -> list[dict[str, Any]]:
        return [case for (case,) in self._cases]

    def _reference(self, name: str) -> list[dict[str, Any]]:
        """The cases of the set ``"real"`` or ``"training"``, described on first use; empty if it was not given."""
        cases = self._sets[name]
        if cases is None:
            return []
        if name not in self._described_sets:
            self._described_sets[name] = [
                _described(str(item["subject"]), self._image(item), keep=name == "real" and number < PAIRED)
                for number, item in enumerate(islice(iter(cases), CASES))
            ]
            if not self._described_sets[name]:
                raise ValueError(f"no {name} case to compare samples with; give a dataset that holds some")
        return self._described_sets[name]

    def _image(self, item: Mapping[Hashable, Any]) -> Tensor:
        low, high = self.network_range
        image: Tensor = (item["image"] - low) / (high - low)
        return image

    def _volume(self, name: str, subject: str) -> Tensor:
        """The volume of a case of a set, read anew: most are not kept."""
        place = next(n for n, case in enumerate(self._reference(name)) if case["subject"] == subject)
        cases = self._sets[name]
        assert cases is not None
        return self._image(cases[place]).as_subclass(Tensor).cpu().clamp(0, 1)

    def _nearest(self) -> list[dict[str, Any]]:
        training = self._reference("training") if self._cases else []
        sets = {"generated": self._samples(), "real": self._reference("real") if training else []}
        return [
            {"case": number, "subject": case["subject"], "method": method, **_nearest_case(case["coarse"], training)}
            for method, cases in sets.items()
            for number, case in enumerate(cases)
        ]

    def _distances(self, method: str) -> Tensor:
        distances = [row["nearest_rmse"] for row in self.rows() if row["method"] == method]
        return torch.tensor(distances, dtype=torch.float64)

    def _summarized(self) -> dict[str, Any]:
        samples, real, training = self._samples(), self._reference("real"), self._reference("training")
        methods: dict[str, Any] = {}
        by_number: dict[str, Any] = {}
        sizes = sorted({len(samples) // 4, len(samples) // 2, len(samples)} - {0})
        for method, compared, own in (("generated", samples, samples), ("real", training, real)):
            figures = set_distances(_stacked(compared), _stacked(real)) if compared else {}
            figures |= diversity([case["volume"] for case in own if case["volume"] is not None], self.max_pairs)
            if training:
                figures |= nearness(self._distances(method), self._distances("real"))
            methods[method] = {name: figure.of_all() for name, figure in figures.items()}
            by_number[method] = {
                str(size): {name: figure.of_subsets(size) for name, figure in figures.items()} for size in sizes
            }
        return {
            "cases": len(samples),
            "real": len(real),
            "training": len(training),
            "scales": scales_that_fit(samples[0]["volume"]),
            "methods": methods,
            "by_number": by_number,
        }


def _described(subject: str, volume: Tensor, keep: bool) -> dict[str, Any]:
    volume = volume.as_subclass(Tensor).detach().cpu().float().clamp(0, 1)
    depth, height, width = (min(n, COARSE) for n in volume.shape[1:])
    coarse = adaptive_avg_pool3d(volume, (depth, height, width))
    return {
        "subject": subject,
        "features": features(volume),
        "coarse": coarse,
        "volume": volume.half() if keep else None,  # half: SSIM differs by about 1e-4 at most
    }


def _stacked(cases: list[dict[str, Any]]) -> dict[str, Tensor]:
    return {name: torch.stack([case["features"][name] for case in cases]).double() for name in FEATURES}


def _nearest_case(coarse: Tensor, training: list[dict[str, Any]]) -> dict[str, Any]:
    if not training:
        return {}
    distance, mirrored, subject = min(
        (float((coarse - image).square().mean().sqrt()), mirrored, other["subject"])
        for other in training
        # left and right are flipped to augment the training data
        for mirrored, image in ((False, other["coarse"]), (True, other["coarse"].flip(1)))
    )
    return {"nearest_training_case": subject, "nearest_rmse": distance, "mirrored": mirrored}
