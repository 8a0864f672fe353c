"""The HTML page about a run: how to repeat it, its settings, curves, tables and pictures."""

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
from matplotlib.ticker import MaxNLocator, NullFormatter
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from idm_bundle.report.command import Command, repeat
from idm_bundle.report.digits import plain, statistic
from idm_bundle.report.settings import Settings, read_settings
from monai_idm.atomic_file import atomic_file
from monai_idm.checkpoints import PHANTOM, read_record
from monai_idm.data.modalities import MODALITIES, title_of
from monai_idm.metrics.comparison import METRICS, REGIONS, columns
from monai_idm.tasks.segmentation import REGION_TITLES

__all__ = ["report"]

_REGIONS = {"brain": "brain", "whole": "whole volume"}
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
            {f"{key}_{region}": _REGIONS[region] for region in REGIONS["image"]},
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
MAX_PICTURES = 12

# the knobs of the configs, as the page groups them
GROUPS: dict[str, tuple[str, ...]] = {
    group: tuple(" ".join(lines).split())
    for group, *lines in (
        (
            "Data",
            "dataset_dir datalist_file patients_file allow_links modalities regions label_map known judged_known",
            "classes class_file class_columns channel_order air fractions demo#num_subjects demo#phantom_size",
        ),
        ("Preprocessing", "spatial_size patch_size zoom window_percentiles network_range flip_prob"),
        ("Network", "preset bookend_stride coordinates activations memory_budget_gib precision weight_dtype"),
        (
            "Diffusion",
            "num_train_timesteps schedule prediction_type zero_terminal_snr variance_type timestep_power",
        ),
        (
            "Training",
            "seed batch_size learning_rate betas lambda_l2 lambda_r min_snr_gamma ema_decay ema_interval max_epochs",
            "epoch_length bad_steps num_workers worker_timeout",
        ),
        (
            "Validation",
            "val_interval reconstruction_timestep sampler num_inference_steps num_draws inference_patch_size",
        ),
        ("Folders", "output_dir ckpt_dir"),
    )
}
UNITS = {
    "fractions": "training, validation, test",
    **dict.fromkeys(("demo#phantom_size", "spatial_size", "patch_size", "inference_patch_size"), "voxels"),
    "window_percentiles": "%",
    "memory_budget_gib": "GiB",
    **dict.fromkeys(("ema_interval", "epoch_length"), "iterations"),
    **dict.fromkeys(("max_epochs", "val_interval"), "epochs"),
    "worker_timeout": "s",
}

# names of the parts of a summary, by their keys
_WORDS = {
    **{name: title_of(name) for name in MODALITIES},
    "one_step": "one pass of the network",
    "gaussian_blur": "Gaussian blur (baseline)",
    "draw": "one draw",
    "ensemble": "mean of all draws",
    "lookup": "intensity lookup (baseline)",
    "mean_image": "mean training image (baseline)",
    "otsu": "Otsu's threshold (baseline)",
    "best_threshold": "best threshold (baseline)",
    "generated": "samples",
    "real": "real cases, for comparison",
}
_REGION_WORDS = {"image": _REGIONS, "noise": _REGIONS, "regions": REGION_TITLES}
_COUNTS = {"cases": "cases", "data_range": "data range", "real": "real cases", "training": "training cases"}
# knobs that are recorded, or named in a sentence, wherever they have an effect
_RECORDED_IF_USED = ("label_map", "classes", "class_file", "class_columns", "patients_file")
_SPACES = {
    "image": ("images", ("contrast", "region", "method")),
    "noise": ("predicted noise, in standard deviations of the noise", ("contrast", "region", "method")),
    "regions": ("masks", ("region", "method")),
    "methods": ("sets of volumes", ("set",)),
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
    "nearest_rmse": "RMSE to the nearest training case",
}

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1d2733; max-width: 68rem; margin: 2rem auto; padding: 0 1rem;
  overflow-wrap: break-word }
h1 { font-size: 1.7rem; margin-bottom: 0 }
h2 { font-size: 1.2rem; margin-top: 2.2rem; border-bottom: 1px solid #d5dbe1 }
.note { background: #fff4d6; padding: .6rem .9rem; border-radius: .3rem }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(20rem, 100%), 1fr)); gap: 1rem }
figure { margin: 0; min-width: 0 } figcaption { color: #5b6875; font-size: .85rem }
svg, img { max-width: 100%; height: auto }
.wide { overflow-x: auto; max-width: 100% }
table { border-collapse: collapse; font-size: .88rem }
th, td { padding: .2rem .7rem; text-align: left; border-bottom: 1px solid #e6eaee; white-space: nowrap }
th.group { padding-top: .9rem; color: #5b6875 }
td.value { font-variant-numeric: tabular-nums } td.changed { font-weight: 600 }
pre { margin: 0; padding: .7rem .9rem; background: #f3f5f7; border-radius: .3rem; user-select: all }
code { background: #f3f5f7 }
"""
_logger = logging.getLogger(__name__)


def report(run_dir: str | Path, weights: str | Path | None = None, file: str | Path | None = None) -> Path:
    """Write a page about a training run and its evaluations.

    Args:
        run_dir: Their ``output_dir``. It is named on the page as given, as are the folders in the record.
        weights: Their ``model.pt``, whose record holds data, settings and versions; None: the page has no settings.
        file: HTML to write; None: ``report.html`` in ``run_dir``.
    Returns:
        The file.
    Raises:
        FileNotFoundError: If the folder or the weights are missing, or no run has written to the folder.
    """
    run_dir = Path(run_dir)
    events = _events(run_dir)
    charts, pictures, tables = list(_charts(events)), _pictures(run_dir), list(_tables(run_dir))
    if not charts and not tables:
        raise FileNotFoundError(
            f"no run in {run_dir}: neither TensorBoard events nor the table of an evaluation; give the output_dir of a "
            "training run"
        )
    if weights is not None and not Path(weights).is_file():
        raise FileNotFoundError(f"no weights at {weights}; give the run's model.pt")
    parts = [
        *_settings(run_dir, None if weights is None else Path(weights), events),
        _section("Curves", '<div class="charts">' + "".join(charts) + "</div>" if charts else ""),
        _section("Tables", "".join(tables)),
        _section("Pictures", "".join(pictures)),
    ]
    title = escape("/".join([part for part in run_dir.parts[-2:] if part.strip("./")]) or run_dir.resolve().name)
    page = (
        f'<!DOCTYPE html>\n<html lang="en">\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Training run {title}</title>\n<style>{_STYLE}</style>\n"
    )
    page += f"<h1>Training run {title}</h1>\n" + "\n".join(parts) + "\n</html>\n"
    file = run_dir / "report.html" if file is None else Path(file)
    with atomic_file(file) as unfinished:
        unfinished.write_text(page, encoding="utf-8")
    _logger.info("%s", file)
    return file


def _settings(run_dir: Path, weights: Path | None, events: EventAccumulator | None) -> Iterator[str]:
    if weights is None:
        yield _note("Settings are not shown: the page was made without the weights. Add --weights model.pt.")
        return
    if (read_record(weights) or {}).get("data", {}).get("source") == PHANTOM:
        yield _note("Trained on generated phantoms: no patient data, and no statement about patients.")
    settings = read_settings(run_dir, weights, _validated(events))
    if settings.task is None:
        yield _section("Settings", "".join(map(_paragraph, settings.gaps)))
        return
    command = repeat(settings, [knob for group in GROUPS.values() for knob in group])
    yield _section("Repeat this run", "".join(_repetition(command, settings)))
    yield _section("Settings", _settings_table(command, settings))


def _repetition(command: Command, settings: Settings) -> Iterator[str]:
    yield f'<div class="wide"><pre>{escape(str(command))}</pre></div>\n'
    yield _paragraph(
        "It writes to the folders of this run and replaces what they hold, unless you give another --output_dir and "
        "--ckpt_dir."
    )
    if command.defaults:
        yield _paragraph(
            "The original command is not recorded. This one uses the config files that need the fewest options, and "
            "gives every recorded setting that differs from their defaults."
        )
    else:
        yield _paragraph(
            "The bundle's configs were not found where the page was made, so the command gives every recorded setting."
        )
    if unknown := _unknown(command, settings):
        yield _paragraph(
            f"Not recorded, and left at their defaults: {', '.join(unknown)}; also the device and the number of "
            "processes."
        )
    if not command.has_parts:
        yield _paragraph("The run had another network or optimizer than these configs make.")
    yield from map(_paragraph, settings.gaps)


def _unknown(command: Command, settings: Settings) -> list[str]:
    """Knobs that the run may have changed without leaving a trace."""
    return [knob for knob in command.defaults if knob not in settings.knobs and knob not in _RECORDED_IF_USED]


def _settings_table(command: Command, settings: Settings) -> str:
    rows = [_group("Run"), *(_row([name.capitalize(), plain(value), ""]) for name, value in settings.facts.items())]
    unknown = _unknown(command, settings)
    shown = dict.fromkeys([*settings.knobs, *unknown])
    grouped = {knob for knobs in GROUPS.values() for knob in knobs}
    others = {"Others": tuple(knob for knob in shown if knob not in grouped)}
    for group, knobs in {**GROUPS, **others}.items():
        present = [knob for knob in knobs if knob in shown]
        rows += [_group(group)] * bool(present)
        for knob in present:
            default = plain(command.defaults[knob]) if knob in command.defaults else ""
            # a value that is no option has the effect of the default, and may be written in another way
            known = command.options.get(knob, command.defaults.get(knob, settings.knobs.get(knob)))
            value = "not recorded" if knob in unknown else plain(known)
            name = f"{knob} [{UNITS[knob]}]" if knob in UNITS else knob
            rows.append(_row([name, value, default], changed=knob in command.options))
    return _table(["setting", "this run", "default"], rows)


def _note(text: str) -> str:
    return f'<p class="note">{escape(text)}</p>'


def _paragraph(text: str) -> str:
    return f"<p>{escape(text)}</p>\n"


def _events(run_dir: Path) -> EventAccumulator | None:
    if not (run_dir / "tensorboard").is_dir():
        return None
    events = EventAccumulator(str(run_dir / "tensorboard"), size_guidance={"scalars": 2000})
    logging.getLogger("tensorboard").setLevel(logging.WARNING)  # it logs every file that it reads
    return events.Reload()


def _validated(events: EventAccumulator | None) -> list[int]:
    """Epochs that were validated."""
    tags = set() if events is None else {"psnr_brain", "dice"} & {*events.Tags()["scalars"]}
    return sorted({point.step for tag in tags for point in events.Scalars(tag)})  # type: ignore[union-attr]


def _charts(events: EventAccumulator | None) -> Iterator[str]:
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


def _pictures(run_dir: Path) -> list[str]:
    """The newest montage of the training run, and the pictures of its evaluations."""
    files = sorted(run_dir.glob("montage*.png"))[-1:] + _evaluated(run_dir, "*.png")
    names = [escape(file.relative_to(run_dir).as_posix()) for file in files]
    shown = [
        f'<figure><img alt="{name}" src="data:image/png;base64,{base64.b64encode(file.read_bytes()).decode()}">'
        f"<figcaption>{name}</figcaption></figure>\n"
        for name, file in zip(names[:MAX_PICTURES], files, strict=False)
    ]
    if len(files) > MAX_PICTURES:
        shown.append(_paragraph(f"The first {MAX_PICTURES} of {len(files)} pictures in the folder."))
    return shown


def _tables(run_dir: Path) -> Iterator[str]:
    for file in (*sorted(run_dir.glob("*.json")), *_evaluated(run_dir, "*.json")):
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
            _row(
                [*(*(words.get(key, key.replace("_", " ")) for key in path), *[""] * depth)[:depth]]
                + [cells.get(metric, "") for metric in metrics],
                names=depth,
            )
            for path, cells in lines.items()
        ]
        caption = f"{name}, {what} ({counts})"
        if any("±" in text for cells in lines.values() for text in cells.values()):
            caption += ": mean ± standard deviation over the cases [95 % interval of the mean]"
        yield f"{_paragraph(caption)}{_table(head, rows)}\n"


def _evaluated(run_dir: Path, pattern: str) -> list[Path]:
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


def _table(head: Sequence[str], rows: Sequence[str]) -> str:
    """A table in its own container, in which a wide one scrolls sideways."""
    cells = "".join(f"<th>{escape(name)}</th>" for name in head)
    return f'<div class="wide"><table><tr>{cells}</tr>\n{"".join(rows)}</table></div>'


def _row(cells: Sequence[str], names: int = 1, changed: bool = False) -> str:
    """A row of names and values; of a changed setting the first value is bold."""
    classes = [""] * names + ["value changed" if changed else "value"] + ["value"] * (len(cells) - names - 1)
    return "<tr>" + "".join(map(_cell, cells, classes)) + "</tr>\n"


def _cell(text: str, kind: str) -> str:
    return f'<td class="{kind}">{escape(text)}</td>' if kind else f"<td>{escape(text)}</td>"


def _group(name: str) -> str:
    return f'<tr><th class="group" colspan="3">{escape(name)}</th></tr>\n'


def _section(title: str, content: str) -> str:
    return f"<h2>{escape(title)}</h2>\n{content}" if content else ""
