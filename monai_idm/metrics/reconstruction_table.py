"""The printed form of a summary of reconstructions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from monai_idm.metrics.table import aligned

__all__ = ["reconstruction_table"]

FORMATS = {"psnr": ".2f", "ssim": ".4f", "mae": ".4f", "rmse": ".4f"}
TITLES = {"psnr": "PSNR [dB]", "ssim": "SSIM", "mae": "MAE", "rmse": "RMSE"}


def reconstruction_table(summary: dict[str, Any]) -> str:
    """Lay a summary out in aligned columns, with what the figures mean stated below.

    Args:
        summary: From :meth:`~monai_idm.metrics.ReconstructionMetrics.summary`.
    Returns:
        Lines of at most 110 columns for modality names of up to eight letters.
    """
    cases, size, data_range = summary["cases"], summary["paper_batch_size"], summary["data_range"]
    title = f"Reconstruction, {cases} case{'' if cases == 1 else 's'}: mean ± sd over the cases, best*"
    if cases == 0:
        return f"{title}\n(no case was evaluated)"
    blocks = [title]
    for space, metrics in (("image", ("psnr", "ssim", "mae")), ("noise", ("mae", "rmse"))):
        if space in summary:
            blocks.append(aligned(list(_lines(summary[space], space, metrics, f"best_batch_of_{size}"))))
    notes = [
        f"PSNR, SSIM and MAE of images at data range {data_range:g}; SSIM over windows of 7^3 voxels.",
        "brain: voxels, and centres of windows, inside the brain mask; whole: all of the volume.",
    ]
    if any("gaussian_blur" in m for regions in summary.get("image", {}).values() for m in regions.values()):
        notes.append("gaussian_blur: best blur of the same noisy volume, chosen against the reference in the brain.")
    if "noise" in summary:
        notes.append("noise: predicted against added noise, whole volume, in standard deviations of the noise.")
    notes.append(f"* best_batch_of_{size} (as in the paper, optimistic): the best mean over {size} consecutive cases.")
    return "\n".join([*blocks, *notes])


def _lines(space: dict[str, Any], name: str, metrics: Sequence[str], best: str) -> Iterator[list[str]]:
    heads = (part for metric in metrics for part in (TITLES[metric], "best*"))
    yield [name, "region", "method", *heads]
    for modality, regions in space.items():
        for region, methods in regions.items():
            for method, found in methods.items():
                cells = [modality, region, method]
                for metric in metrics:
                    cells += _cells(found[metric], FORMATS[metric], best)
                yield cells


def _cells(statistics: dict[str, Any], form: str, best: str) -> tuple[str, str]:
    mean = format(statistics["mean"], form)
    spread = "" if statistics["sd"] is None else f" ± {statistics['sd']:{form}}"
    return mean + spread, "-" if statistics[best] is None else format(statistics[best], form)
