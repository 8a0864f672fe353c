"""Curves of a run, as SVG, from its TensorBoard events."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from idm_bundle.report.digits import plain
from idm_bundle.report.expected import Course
from idm_bundle.report.tables import REGIONS_IN_WORDS
from monai_idm.metrics.comparison import columns

__all__ = ["charts", "read_events", "validated_epochs"]

_PEAKS = {
    "allocated_peak_gib": "allocated by PyTorch",
    "reserved_peak_gib": "reserved by PyTorch",
    "live_peak_gib": "tensors of a step",
    "process_peak_gib": "whole process",
}
# title: the tags and their names in the legend, and how the values are drawn; the axis of a quantity begins at 0
CHARTS: dict[str, tuple[Mapping[str, str], str]] = {
    "training loss, by iteration; black: mean of neighbouring iterations": ({"train_loss": "loss"}, "loss"),
    **{
        f"{metric.title} in validation, by epoch": (
            {f"{key}_{region}": words for region, words in REGIONS_IN_WORDS.items()},
            "score",
        )
        for key, metric in columns("image").items()
    },
    "Dice in validation, mean over regions, by epoch": (
        {"dice": "mean of all draws", "draw_dice": "one draw"},
        "score",
    ),
    "peak memory [GiB], by epoch": (_PEAKS, "quantity"),
    "energy per training step [J], by epoch": ({"energy_j_per_step": "energy"}, "quantity"),
    "mean power [W], by epoch": ({"mean_power_w": "power"}, "quantity"),
    "time spent waiting for data [% of the epoch]": ({"data_wait_percent": "waiting"}, "quantity"),
}


def read_events(run_dir: Path) -> EventAccumulator | None:
    if not (run_dir / "tensorboard").is_dir():
        return None
    events = EventAccumulator(str(run_dir / "tensorboard"), size_guidance={"scalars": 2000})
    logging.getLogger("tensorboard").setLevel(logging.WARNING)  # it logs every file that it reads
    return events.Reload()


def validated_epochs(events: EventAccumulator | None) -> list[int]:
    """Epochs that were validated."""
    tags = set() if events is None else {"psnr_brain", "dice"} & {*events.Tags()["scalars"]}
    return sorted({point.step for tag in tags for point in events.Scalars(tag)})  # type: ignore[union-attr]


def charts(events: EventAccumulator | None, expected: Course | None = None) -> Iterator[str]:
    """The curves of a run; that of the loss with the one expected."""
    if events is None:
        return
    recorded = events.Tags()["scalars"]
    for title, (tags, kind) in CHARTS.items():
        series = {name: events.Scalars(tag) for tag, name in tags.items() if tag in recorded}
        if series:
            figure = Figure(figsize=(4.6, 2.6), layout="constrained")
            axes = figure.subplots()
            for name, points in series.items():
                steps, values = np.array([(p.step, p.value) for p in points]).T
                if kind == "loss":
                    axes.plot(steps, values, color="0.8", linewidth=0.8)
                    steps, values = _means(steps), _means(values)
                    axes.set_yscale("log")
                color = "black" if kind == "loss" else None
                axes.plot(
                    steps, values, label=name, linewidth=1.4, marker="." if len(values) < 20 else None, color=color
                )
            if kind == "loss" and expected is not None:
                axes.plot(*np.array(expected.loss).T, "--", color="tab:blue", label=expected.text)
                axes.legend(fontsize="small", frameon=False)
            if kind == "quantity":
                axes.set_ylim(0, 1.05 * axes.get_ylim()[1])
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.yaxis.set_major_formatter(lambda value, _: plain(float(value)))
            low, high = axes.get_ylim()
            if kind == "loss" and high < 10 * low:  # too few powers of ten to label these alone
                axes.yaxis.set_minor_formatter(lambda value, _: plain(float(value)))
            else:
                axes.yaxis.set_minor_formatter(NullFormatter())
            if len(series) > 1:
                axes.legend(fontsize="small", frameon=False)
            axes.spines[["top", "right"]].set_visible(False)
            yield f"<figure>{_svg(figure, title)}<figcaption>{escape(title)}</figcaption></figure>\n"


def _means(values: np.ndarray, parts: int = 40) -> np.ndarray:
    """The means of consecutive parts: a loss at random timesteps jumps."""
    return np.array([part.mean() for part in np.array_split(values, min(parts, len(values)))])


def _svg(figure: Figure, title: str) -> str:
    text = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "report"}):
        figure.savefig(text, format="svg", metadata={"Date": None, "Title": title})
    page = text.getvalue()
    return page[page.index("<svg") :]  # without XML's declaration
