"""The rows of a run as a figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from idm_bundle.benchmark.row import Row
from monai_idm.atomic_file import atomic_file
from monai_idm.meters import EnergySample

__all__ = ["draw"]


def draw(rows: Sequence[Row], series: Mapping[str, Sequence[EnergySample]], file: str | Path) -> None:
    """Draw peak memory as bars, as in the paper's figure 3; with a series, energy and temperature, as in figures 4, 5.

    Args:
        rows: Rows of one run.
        series: Readings of the device over time, by the name of the case; may be empty.
        file: PNG to write.
    """
    figure = _over_time(series) if series else _peaks(rows)
    with atomic_file(Path(file)) as unfinished:
        figure.savefig(unfinished, format="png", dpi=120, bbox_inches="tight")


def _peaks(rows: Sequence[Row]) -> Figure:
    figure = Figure(figsize=(9, 0.8 + 0.28 * len(rows)))
    axes = figure.subplots()
    names = [f"{row.case}  ({row.activations})" if rows[0].suite == "layers" else row.case for row in rows]
    places = range(len(rows))
    peaks = [0.0 if row.peak_bytes is None else row.peak_bytes / 1e9 for row in rows]
    # the suite layers counts without weights
    resident = [0.0 if row.suite == "layers" else (row.resident_bytes or 0) / 1e9 for row in rows]
    above = [max(0.0, peak - base) for peak, base in zip(peaks, resident, strict=True)]
    axes.barh(places, resident, color="0.75", label="weights and optimizer states")
    axes.barh(places, above, left=resident, color="tab:blue", label="gradients, activations, temporaries")
    for place, row, peak in zip(places, rows, peaks, strict=True):
        axes.text(peak, place, "  no room" if row.peak_bytes is None else f"  {peak:.3g}", va="center", fontsize=8)
    axes.set_yticks(places, names, fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.1)
    what = "pass that samples" if rows[0].suite == "sampling" else "training step"
    axes.set_xlabel(f"peak of a {what}, GB ({'estimated' if rows[0].estimated else rows[0].device})")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False)
    return figure


def _over_time(series: Mapping[str, Sequence[EnergySample]]) -> Figure:
    figure = Figure(figsize=(10, 3.5))
    curves = (("energy_j", "energy since the start, J"), ("temperature_c", "temperature, °C"))
    for axes, (field, label) in zip(figure.subplots(1, 2), curves, strict=True):
        for case, samples in series.items():
            known = [(s.time_s, getattr(s, field)) for s in samples if getattr(s, field) is not None]
            axes.plot([t for t, _ in known], [value for _, value in known], label=case)
        axes.set_xlabel("s")
        axes.set_ylabel(label)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(fontsize=8, frameon=False)
    return figure
