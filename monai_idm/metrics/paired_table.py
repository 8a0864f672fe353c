"""Printed tables of volumes that have a reference."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from monai_idm.metrics.comparison import METRICS, REGIONS, columns
from monai_idm.metrics.table import aligned

__all__ = ["paired_table"]

_REGIONS = {
    "brain": "voxels, and centres of SSIM windows, inside the brain mask",
    "hole": "voxels, and centres of SSIM windows, inside the hole",
    "whole": "the whole volume",
}
_WIDTH = 3  # metrics per table, all but the last with an interval: more would not fit into 110 columns


def paired_table(title: str, summary: dict[str, Any], methods: Mapping[str, str]) -> str:
    """Format a summary as aligned columns, with notes below that explain the figures.

    Args:
        title: Start of the caption.
        summary: From :meth:`~monai_idm.metrics.PairedMetrics.summary`.
        methods: A note on each method by its name; only methods in the summary are explained.
    Returns:
        Lines of at most 110 columns for modality names of up to eight letters.
    """
    cases, data_range = summary["cases"], summary["data_range"]
    title = f"{title}, {cases} case{'' if cases == 1 else 's'}: mean ± sd over the cases, 95 % interval of the mean"
    if cases == 0:
        return f"{title}\n(no case was evaluated)"
    blocks = [title]
    for space in filter(summary.__contains__, REGIONS):
        metrics = list(columns(space))
        parts = [metrics[i : i + _WIDTH] for i in range(0, len(metrics), _WIDTH)]
        blocks += [aligned(list(_lines(summary[space], space, part))) for part in parts]
    *most, last = (metric.name for metric in columns("image").values())
    remarks = "".join(f"; {metric.name} {metric.note}" for metric in METRICS.values() if metric.note)
    image = summary.get("image", {})
    regions = dict.fromkeys(region for of_modality in image.values() for region in of_modality)
    notes = [
        f"{', '.join(most)} and {last} of images at data range {data_range:g}{remarks}.",
        "; ".join(f"{region}: {_REGIONS[region]}" for region in regions) + ".",
    ]
    shown = {method for regions in image.values() for measured in regions.values() for method in measured}
    notes += [f"{method}: {meaning}" for method, meaning in methods.items() if method in shown]
    if "noise" in summary:
        notes.append("noise: error of the predicted noise over the whole volume, in standard deviations of the noise.")
    notes += _figures_below(image)
    return "\n".join([*blocks, *notes])


def _lines(measured: dict[str, Any], space: str, metrics: Sequence[str]) -> Iterator[list[str]]:
    heads = [part for i, key in enumerate(metrics) for part in (METRICS[key].title, "95 %")[: 1 + (i < _WIDTH - 1)]]
    yield [space, "region", "method", *heads]
    for modality, regions in measured.items():
        for region, methods in regions.items():
            for method, statistics in methods.items():
                cells = [modality, region, method]
                for i, key in enumerate(metrics):
                    cells += _cells(statistics.get(key), METRICS[key].form)[: 1 + (i < _WIDTH - 1)]
                yield cells


def _cells(statistics: dict[str, Any] | None, form: str) -> tuple[str, str]:
    if statistics is None:
        return "-", "-"
    mean = format(statistics["mean"], form)
    spread = "" if statistics["sd"] is None else f" ± {statistics['sd']:{form}}"
    interval = statistics["ci95"]
    return mean + spread, "-" if interval is None else "..".join(format(end, form) for end in interval)


def _figures_below(image: dict[str, Any]) -> Iterator[str]:
    """Figures that are printed below the table: metrics of a single region, and the best batch, as in the paper."""
    for key, metric in METRICS.items():
        if metric.region is not None:
            first = {modality: next(iter(regions[metric.region].values())) for modality, regions in image.items()}
            figures = [
                f"{modality} {_cells(found[key], metric.form)[0]}" for modality, found in first.items() if key in found
            ]
            if figures:
                yield f"{metric.name}, {metric.region}: {', '.join(figures)}"
    # the paper reports PSNR and SSIM
    first = {modality: next(iter(regions["whole"].values())) for modality, regions in image.items()}
    best = [key for found in first.values() for key in found["psnr"] if key.startswith("best_batch_of_")][:1]
    for key in best:
        figures = [
            f"{modality} {found['psnr'][key]:.2f} dB, SSIM {found['ssim'][key]:.4f}"
            for modality, found in first.items()
            if found["psnr"][key] is not None
        ]
        if figures:
            yield f"{key} (as in the paper, optimistic), whole: {'; '.join(figures)}"
