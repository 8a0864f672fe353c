"""Tables of the evaluations of a run, from the summaries in their JSON files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from idm_bundle.report.digits import plain, statistic
from idm_bundle.report.html import paragraph, row, table
from monai_idm.data.modalities import MODALITIES, title_of
from monai_idm.metrics.comparison import METRICS
from monai_idm.tasks.segmentation import REGION_TITLES

__all__ = ["REGIONS_IN_WORDS", "evaluated", "tables"]

REGIONS_IN_WORDS = {"brain": "brain", "hole": "hole", "whole": "whole volume"}

# names of the parts of a summary, by their keys
_WORDS = {
    **{name: title_of(name) for name in MODALITIES},
    "one_step": "one pass of the network",
    "gaussian_blur": "Gaussian blur (baseline)",
    "draw": "one draw",
    "ensemble": "mean of all draws",
    "lookup": "intensity lookup (baseline)",
    "mean_image": "mean training image (baseline)",
    "interpolated": "interpolated thick slices (baseline)",
    "harmonic": "smoothest fill (baseline)",
    "mirrored": "other hemisphere (baseline)",
    "otsu": "Otsu's threshold (baseline)",
    "best_threshold": "best threshold (baseline)",
    "generated": "samples",
    "real": "real cases, for comparison",
}
_REGION_WORDS = {"image": REGIONS_IN_WORDS, "noise": REGIONS_IN_WORDS, "regions": REGION_TITLES}
_COUNTS = {
    "cases": "cases",
    "data_range": "data range",
    "real": "real cases",
    "training": "training cases",
    "scales": "scales of MS-SSIM",
}
_SPACES = {
    "image": ("images", ("contrast", "region", "method")),
    "noise": ("predicted noise, in standard deviations of the noise", ("contrast", "region", "method")),
    "regions": ("masks", ("region", "method")),
    "methods": ("sets of volumes", ("set",)),
    "by_number": ("subsets of so many volumes, means", ("set", "volumes")),
}
_TITLES = {
    **{key: metric.title for key, metric in METRICS.items()},
    "dice": "Dice",
    "hd95_mm": "HD95 [mm]",
    "mmd_intensity": "MMD of intensity",
    "mmd_texture": "MMD of texture",
    "mmd_layout": "MMD of layout",
    "histogram_distance": "histogram distance",
    "diversity_ssim": "SSIM between pairs",
    "diversity_ms_ssim": "MS-SSIM between pairs",
    "nearest_rmse": "RMSE to the nearest training case",
    "nearest_rmse_median": "its median",
    "share_too_near": "share too near",
}


def tables(run_dir: Path) -> Iterator[str]:
    for file in (*sorted(run_dir.glob("*.json")), *evaluated(run_dir, "*.json")):
        content = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(content, dict) and isinstance(content.get("summary"), dict):
            yield from _summary_tables(file.relative_to(run_dir).as_posix(), content["summary"])


def _summary_tables(name: str, summary: Mapping[str, Any]) -> Iterator[str]:
    """A table for each space of a summary: a row for each region, method and so on, a column for each metric."""
    spaces = {key: part for key, part in summary.items() if isinstance(part, Mapping)}
    counts = ", ".join(f"{_COUNTS.get(key, key)}: {plain(n)}" for key, n in summary.items() if key not in spaces)
    for space, part in spaces.items():
        what, levels = _SPACES.get(space, (space.replace("_", " "), ()))
        words = {**_WORDS, **_REGION_WORDS.get(space, {})}
        lines: dict[tuple[str, ...], dict[str, str]] = {}
        for (*path, metric), text in _leaves(part, summary.get("cases")):
            lines.setdefault(tuple(path), {})[metric] = text
        metrics = list(dict.fromkeys(metric for cells in lines.values() for metric in cells))
        depth = max(map(len, lines), default=0)
        head = [*(*levels, *[""] * depth)[:depth], *(_TITLES.get(metric, metric) for metric in metrics)]
        rows = [
            row(
                [*(*(words.get(key, key.replace("_", " ")) for key in path), *[""] * depth)[:depth]]
                + [cells.get(metric, "") for metric in metrics],
                names=depth,
            )
            for path, cells in lines.items()
        ]
        caption = f"{name}, {what} ({counts})"
        if any("±" in text for cells in lines.values() for text in cells.values()):
            caption += ": mean ± standard deviation over the cases [95 % interval of the mean]"
        yield f"{paragraph(caption)}{table(head, rows)}\n"


def evaluated(run_dir: Path, pattern: str) -> list[Path]:
    """Files of the evaluations in folders of a run, not of other runs there."""
    return [f for f in sorted(run_dir.glob(f"*/{pattern}")) if not (f.parent / "tensorboard").is_dir()]


def _leaves(
    summary: Mapping[str, Any], cases: int | None, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], str]]:
    """Every statistic of a nested summary, as text."""
    for name, value in summary.items():
        figures = value if isinstance(value, Mapping) else {"mean": value}
        if "mean" in figures:
            yield (*path, name), statistic(name, figures, cases)
        else:
            yield from _leaves(figures, cases, (*path, name))
