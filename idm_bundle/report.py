"""``python -m idm_bundle report``: one page of a run, to be read anywhere: nothing in it is fetched from elsewhere."""

from __future__ import annotations

import base64
import io
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from monai_idm.atomic_file import atomic_file
from monai_idm.checkpoints import PHANTOM, read_record
from monai_idm.metrics.comparison import REGIONS, columns

__all__ = ["report"]

_PEAKS = ("allocated_peak_gib", "reserved_peak_gib", "live_peak_gib", "process_peak_gib")
CHARTS: dict[str, tuple[Sequence[str], str]] = {  # tags, and how values are drawn: a quantity's axis begins at 0
    "training loss, by iteration": (("train_loss",), "loss"),
    **{
        f"{metric.name} of reconstructions{metric.unit and f', {metric.unit}'}, by epoch": (
            [f"{key}_{region}" for region in REGIONS["image"]],
            "score",
        )
        for key, metric in columns("image").items()
    },
    "Dice, by epoch": (("dice", "draw_dice"), "score"),
    "peak memory, GiB, by epoch": (_PEAKS, "quantity"),
    "energy, J per step, by epoch": (("energy_j_per_step",), "quantity"),
    "mean power, W, by epoch": (("mean_power_w",), "quantity"),
    "waiting for data, % of the time, by epoch": (("data_wait_percent",), "quantity"),
}
MAX_PICTURES = 12

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1d2733; max-width: 68rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.7rem; margin-bottom: 0 }
h2 { font-size: 1.2rem; margin-top: 2.2rem; border-bottom: 1px solid #d5dbe1 }
.note { background: #fff4d6; padding: .6rem .9rem; border-radius: .3rem }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(20rem, 1fr)); gap: 1rem }
figure { margin: 0 } figcaption { color: #5b6875; font-size: .85rem } svg, img { max-width: 100%; height: auto }
.table { overflow-x: auto } table { border-collapse: collapse; font-size: .88rem }
th, td { padding: .2rem .7rem; text-align: left; border-bottom: 1px solid #e6eaee; white-space: nowrap }
td.value { font-variant-numeric: tabular-nums }
"""
_logger = logging.getLogger(__name__)


def report(run_dir: str | Path, weights: str | Path | None = None, file: str | Path | None = None) -> Path:
    """Write a page of curves, pictures and tables of what a training and its evaluations left.

    Args:
        run_dir: Their ``output_dir``.
        weights: Their ``model.pt``, whose record tells data, settings and versions; None: they are not shown.
        file: HTML to write; None: ``report.html`` in ``run_dir``.
    Returns:
        The file.
    Raises:
        FileNotFoundError: If the folder, or the weights, are missing, or no run has written to the folder.
    """
    run_dir = Path(run_dir)
    charts, pictures, tables = list(_charts(run_dir)), _pictures(run_dir), list(_tables(run_dir))
    if not charts and not tables:
        raise FileNotFoundError(
            f"no run in {run_dir}: no events of tensorboard, no table of an evaluation; give a training's output_dir"
        )
    if weights is not None and not Path(weights).is_file():
        raise FileNotFoundError(f"no weights at {weights}; give the run's model.pt")
    parts = [
        *_settings(None if weights is None else Path(weights)),
        _section("Curves", '<div class="charts">' + "".join(charts) + "</div>" if charts else ""),
        _section("Tables", "".join(tables)),
        _section("Pictures", "".join(pictures)),
    ]
    title = escape("/".join(run_dir.resolve().parts[-2:]))
    page = (
        f'<!DOCTYPE html>\n<html lang="en">\n<meta charset="utf-8">\n<title>{title}</title>\n<style>{_STYLE}</style>\n'
    )
    page += f"<h1>{title}</h1>\n" + "\n".join(parts) + "\n</html>\n"
    file = run_dir / "report.html" if file is None else Path(file)
    with atomic_file(file) as unfinished:
        unfinished.write_text(page)
    _logger.info("%s", file)
    return file


def _settings(weights: Path | None) -> Iterator[str]:
    if weights is None:
        return
    record = read_record(weights) or {}
    data = dict(record.get("data", {}))
    if "source" in data:
        data["source"] = Path(data["source"]).name  # whoever reads the page need not know the machine
    if data.get("source") == PHANTOM:
        yield '<p class="note">Trained on generated phantoms: no patient\'s data, and nothing about patients.</p>'
    run = {name: record[name] for name in ("task", "seed") if name in record}
    rows = {**run, **data, **record.get("convention", {}), **record.get("versions", {})}
    yield _section("Settings", _table([], [[name, str(value)] for name, value in rows.items()]))


def _charts(run_dir: Path) -> Iterator[str]:
    if not (run_dir / "tensorboard").is_dir():
        return
    events = EventAccumulator(str(run_dir / "tensorboard"), size_guidance={"scalars": 2000})
    logging.getLogger("tensorboard").setLevel(logging.WARNING)  # it tells every file that it has read
    events.Reload()
    there = events.Tags()["scalars"]
    for title, (tags, kind) in CHARTS.items():
        series = {tag: events.Scalars(tag) for tag in tags if tag in there}
        if series:
            figure = Figure(figsize=(4.6, 2.6), layout="constrained")
            axes = figure.subplots()
            for tag, points in series.items():
                steps, values = np.array([(p.step, p.value) for p in points]).T
                if kind == "loss":
                    axes.plot(steps, values, color="0.8", linewidth=0.8)
                    steps, values = _means(steps), _means(values)
                    axes.set_yscale("log")
                axes.plot(steps, values, label=tag, linewidth=1.4, marker="." if len(values) < 20 else None)
            if kind == "quantity":
                axes.set_ylim(bottom=0)
            if len(series) > 1:
                axes.legend(fontsize="small", frameon=False)
            axes.spines[["top", "right"]].set_visible(False)
            yield f"<figure>{_svg(figure)}<figcaption>{escape(title)}</figcaption></figure>\n"


def _means(values: np.ndarray, parts: int = 40) -> np.ndarray:
    """The means of consecutive parts: a loss at random timesteps jumps."""
    return np.array([part.mean() for part in np.array_split(values, min(parts, len(values)))])


def _svg(figure: Figure) -> str:
    text = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "report"}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    page = text.getvalue()
    return page[page.index("<svg") :]  # without XML's declaration


def _pictures(run_dir: Path) -> list[str]:
    """The newest montage of the training, and what evaluations drew."""
    files = sorted(run_dir.glob("montage*.png"))[-1:] + _evaluated(run_dir, "*.png")
    return [
        f'<figure><img alt="" src="data:image/png;base64,{base64.b64encode(file.read_bytes()).decode()}">'
        f"<figcaption>{escape(file.relative_to(run_dir).as_posix())}</figcaption></figure>\n"
        for file in files[:MAX_PICTURES]
    ]


def _tables(run_dir: Path) -> Iterator[str]:
    for file in (*sorted(run_dir.glob("*.json")), *_evaluated(run_dir, "*.json")):
        content = json.loads(file.read_text())
        if isinstance(content, dict) and "summary" in content:
            lines: dict[str, dict[str, str]] = {}
            for path, value in _leaves(content["summary"]):
                lines.setdefault(", ".join(path[:-1]), {})[path[-1]] = value
            counts = lines.pop("", {})
            columns = list(dict.fromkeys(column for cells in lines.values() for column in cells))
            rows = [[name, *(cells.get(column, "") for column in columns)] for name, cells in lines.items()]
            told = ", ".join(f"{name} {value}" for name, value in counts.items())
            caption = (
                f"{file.relative_to(run_dir).as_posix()}: {told}; mean ± standard deviation [95 % interval of the mean]"
            )
            yield f"<p>{escape(caption)}</p>{_table(['', *columns], rows)}\n"


def _evaluated(run_dir: Path, pattern: str) -> list[Path]:
    """Files of the evaluations below a run, not of other runs there."""
    return [f for f in sorted(run_dir.glob(f"*/{pattern}")) if not (f.parent / "tensorboard").is_dir()]


def _leaves(summary: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """Every statistic of a nested summary, as text."""
    if isinstance(summary, Mapping) and "mean" not in summary:
        for name, value in summary.items():
            yield from _leaves(value, (*path, name))
    elif not isinstance(summary, Mapping):
        yield path, f"{summary:.4g}" if isinstance(summary, float) else str(summary)
    elif summary["mean"] is not None:
        text = f"{summary['mean']:.4g}"
        if summary.get("sd") is not None:
            text += f" ± {summary['sd']:.2g}"
        if summary.get("ci95"):
            text += " [{:.4g}, {:.4g}]".format(*summary["ci95"])
        yield path, text


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    cells = "".join(f"<th>{escape(name)}</th>" for name in head)
    lines = "".join(
        f"<tr><td>{escape(row[0])}</td>"
        + "".join(f'<td class="value">{escape(cell)}</td>' for cell in row[1:])
        + "</tr>\n"
        for row in rows
    )
    return f'<div class="table"><table><tr>{cells}</tr>\n{lines}</table></div>'


def _section(title: str, content: str) -> str:
    return f"<h2>{title}</h2>\n{content}" if content else ""
