"""The printed form of a summary of volumes that have a reference."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from monai_idm.metrics.table import aligned

__all__ = ["paired_table"]

FORMATS = {"psnr": ".2f", "ssim": ".4f", "mae": ".4f", "rmse": ".4f"}
TITLES = {"psnr": "PSNR [dB]", "ssim": "SSIM", "mae": "MAE", "rmse": "RMSE"}
COLUMNS = {"image": (("psnr", True), ("ssim", True), ("mae", False)), "noise": (("mae", True), ("rmse", True))}


def paired_table(title: str, summary: dict[str, Any], methods: Mapping[str, str]) -> str:
    """Lay a summary out in aligned columns, with what the figures mean stated below.

    Args:
        title: What was done.
        summary: From :meth:`~monai_idm.metrics.PairedMetrics.summary`.
        methods: What a method is, by its name, for those that are in the summary.
    Returns:
        Lines of at most 110 columns for modality names of up to eight letters.
    """
    cases, data_range = summary["cases"], summary["data_range"]
    title = f"{title}, {cases} case{'' if cases == 1 else 's'}: mean ± sd over the cases, 95 % interval of the mean"
    if cases == 0:
        return f"{title}\n(no case was evaluated)"
    blocks = [title, *(aligned(list(_lines(summary[space], space))) for space in COLUMNS if space in summary)]
    notes = [
        f"PSNR, SSIM and MAE of images at data range {data_range:g}; SSIM over windows of 7^3 voxels.",
        "brain: voxels, and centres of windows, inside the brain mask; whole: all of the volume.",
    ]
    image = summary.get("image", {})
    shown = {method for regions in image.values() for found in regions.values() for method in found}
    notes += [f"{method}: {meaning}" for method, meaning in methods.items() if method in shown]
    if "noise" in summary:
        notes.append("noise: predicted against added noise, whole volume, in standard deviations of the noise.")
    notes += _of_whole_volumes(image)
    return "\n".join([*blocks, *notes])


def _lines(space: dict[str, Any], name: str) -> Iterator[list[str]]:
    heads = [part for metric, interval in COLUMNS[name] for part in (TITLES[metric], "95 %")[: 1 + interval]]
    yield [name, "region", "method", *heads]
    for modality, regions in space.items():
        for region, methods in regions.items():
            for method, found in methods.items():
                cells = [modality, region, method]
                for metric, interval in COLUMNS[name]:
                    cells += _cells(found[metric], FORMATS[metric])[: 1 + interval]
                yield cells


def _cells(statistics: dict[str, Any], form: str) -> tuple[str, str]:
    mean = format(statistics["mean"], form)
    spread = "" if statistics["sd"] is None else f" ± {statistics['sd']:{form}}"
    interval = statistics["ci95"]
    return mean + spread, "-" if interval is None else "..".join(format(end, form) for end in interval)


def _of_whole_volumes(image: dict[str, Any]) -> Iterator[str]:
    """Figures that stand beside the table: MS-SSIM, and the paper's best batch."""
    first = {modality: next(iter(regions["whole"].values())) for modality, regions in image.items()}
    scales = {modality: found["ms_ssim"] for modality, found in first.items() if "ms_ssim" in found}
    if scales:
        yield "MS-SSIM, whole: " + ", ".join(
            f"{modality} {_cells(found, '.4f')[0]}" for modality, found in scales.items()
        )
    best = [key for found in first.values() for key in found["psnr"] if key.startswith("best_batch_of_")][:1]
    for key in best:
        figures = [
            f"{modality} {found['psnr'][key]:.2f} dB, SSIM {found['ssim'][key]:.4f}"
            for modality, found in first.items()
            if found["psnr"][key] is not None
        ]
        if figures:
            yield f"{key} (as in the paper, optimistic), whole: {'; '.join(figures)}"
