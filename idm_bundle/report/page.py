"""The HTML page about a run: how to repeat it, its settings, curves, tables and pictures."""

from __future__ import annotations

import base64
import logging
from collections.abc import Iterator
from html import escape
from pathlib import Path

from idm_bundle.report.charts import charts, read_events, validated_epochs
from idm_bundle.report.command import Command, repeat
from idm_bundle.report.digits import plain
from idm_bundle.report.expected import Course, expected_course
from idm_bundle.report.html import group, note, paragraph, row, section, table
from idm_bundle.report.settings import Settings, read_settings
from idm_bundle.report.tables import evaluated, tables
from monai_idm.atomic_file import atomic_file

__all__ = ["report"]

MAX_PICTURES = 12

# the knobs of the configs, as the page groups them
GROUPS: dict[str, tuple[str, ...]] = {
    group: tuple(" ".join(lines).split())
    for group, *lines in (
        (
            "Data",
            "dataset_dir datalist_file patients_file allow_links modalities regions label_map known validation_known",
            "slices thickness_mm hole_kinds hole_diameter_mm max_holes",
            "regression labels label_name classes class_file class_columns conditions",
            "condition_columns channel_order air fractions demo#num_subjects demo#phantom_size",
        ),
        ("Preprocessing", "spatial_size patch_size zoom window_percentiles network_range flip_prob"),
        (
            "Network",
            "preset bookend_stride coordinates activations memory_budget_gib precision weight_dtype gradient_dtype",
            "compile_branches offload_levels",
        ),
        (
            "Diffusion",
            "num_train_timesteps schedule prediction_type zero_terminal_snr noise_shift variance_type timestep_power",
        ),
        (
            "Training",
            "seed batch_size learning_rate muon betas lambda_l2 lambda_r min_snr_gamma ema_decay ema_interval",
            "max_epochs epoch_length condition_dropout bad_steps num_workers worker_timeout",
        ),
        (
            "Validation",
            "val_interval reconstruction_timestep sampler num_inference_steps timestep_spacing num_draws",
            "inference_patch_size",
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

# knobs that are recorded, or named in a sentence, wherever they have an effect
_OF_CASES = ("classes", "class_file", "class_columns", "conditions", "condition_columns")
_RECORDED_IF_USED = ("label_map", "patients_file", *_OF_CASES)
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
        run_dir: Their ``output_dir``. The page names it as given, and the data by the name of their folder alone.
        weights: Their ``model.pt``, whose record holds data, settings and versions; None: the page has no settings.
        file: HTML to write; None: ``report.html`` in ``run_dir``.
    Returns:
        The file.
    Raises:
        FileNotFoundError: If the folder or the weights are missing, or no run has written to the folder.
    """
    run_dir, weights = Path(run_dir), None if weights is None else Path(weights)
    if weights is not None and not weights.is_file():
        raise FileNotFoundError(f"no weights at {weights}; give the run's model.pt")
    events = read_events(run_dir)
    settings = None if weights is None else read_settings(run_dir, weights, validated_epochs(events))
    curves, pictures, scores = list(charts(events, _expected(settings))), _pictures(run_dir), list(tables(run_dir))
    if not curves and not scores:
        raise FileNotFoundError(
            f"no run in {run_dir}: neither TensorBoard events nor the table of an evaluation; give the output_dir of a "
            "training run"
        )
    parts = [
        *_settings(settings),
        section("Curves", '<div class="charts">' + "".join(curves) + "</div>" if curves else ""),
        section("Tables", "".join(scores)),
        section("Pictures", "".join(pictures)),
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


def _expected(settings: Settings | None) -> Course | None:
    """What the loss of this run should be like, if there is such a training; phantoms are not like brains."""
    return None if settings is None or settings.phantoms else expected_course(settings.knobs)


def _settings(settings: Settings | None) -> Iterator[str]:
    if settings is None:
        yield note("Settings are not shown: the page was made without the weights. Add --weights model.pt.")
        return
    if settings.phantoms:
        yield note("Trained on generated phantoms: no patient data, and no statement about patients.")
    if settings.task is None:
        yield section("Settings", "".join(map(paragraph, settings.gaps)))
        return
    command = repeat(settings, [knob for names in GROUPS.values() for knob in names])
    yield section("Repeat this run", "".join(_repetition(command, settings)))
    yield section("Settings", _settings_table(command, settings))


def _repetition(command: Command, settings: Settings) -> Iterator[str]:
    yield f'<div class="wide"><pre>{escape(str(command))}</pre></div>\n'
    yield paragraph(
        "It writes to the folders of this run and replaces what they hold, unless you give another --output_dir and "
        "--ckpt_dir."
    )
    if command.defaults:
        yield paragraph(
            "The original command is not recorded. This one uses the config files that need the fewest options, and "
            "gives every recorded setting that differs from their defaults."
        )
    else:
        yield paragraph(
            "The bundle's configs were not found where the page was made, so the command gives every recorded setting."
        )
    if unknown := _unknown(command, settings):
        yield paragraph(
            f"Not recorded, and left at their defaults: {', '.join(unknown)}; also the device and the number of "
            "processes."
        )
    if not command.has_parts:
        yield paragraph("The run had another network or optimizer than these configs make.")
    yield from map(paragraph, settings.gaps)


def _unknown(command: Command, settings: Settings) -> list[str]:
    """Knobs that the run may have changed without leaving a trace."""
    return [knob for knob in command.defaults if knob not in settings.knobs and knob not in _RECORDED_IF_USED]


def _settings_table(command: Command, settings: Settings) -> str:
    rows = [group("Run"), *(row([name.capitalize(), plain(value), ""]) for name, value in settings.facts.items())]
    unknown = _unknown(command, settings)
    shown = dict.fromkeys([*settings.knobs, *unknown])
    grouped = {knob for knobs in GROUPS.values() for knob in knobs}
    others = {"Others": tuple(knob for knob in shown if knob not in grouped)}
    for heading, knobs in {**GROUPS, **others}.items():
        present = [knob for knob in knobs if knob in shown]
        rows += [group(heading)] * bool(present)
        for knob in present:
            default = plain(command.defaults[knob]) if knob in command.defaults else ""
            # a value that is no option has the effect of the default, and may be written in another way
            known = command.options.get(knob, command.defaults.get(knob, settings.knobs.get(knob)))
            value = "not recorded" if knob in unknown else plain(known)
            name = f"{knob} [{UNITS[knob]}]" if knob in UNITS else knob
            rows.append(row([name, value, default], changed=knob in command.options))
    return table(["setting", "this run", "default"], rows)


def _pictures(run_dir: Path) -> list[str]:
    """The newest montage of the training run, and the pictures of its evaluations."""
    files = sorted(run_dir.glob("montage*.png"))[-1:] + evaluated(run_dir, "*.png")
    names = [escape(file.relative_to(run_dir).as_posix()) for file in files]
    shown = [
        f'<figure><img alt="{name}" src="data:image/png;base64,{base64.b64encode(file.read_bytes()).decode()}">'
        f"<figcaption>{name}</figcaption></figure>\n"
        for name, file in zip(names[:MAX_PICTURES], files, strict=False)
    ]
    if len(files) > MAX_PICTURES:
        shown.append(paragraph(f"The first {MAX_PICTURES} of {len(files)} pictures in the folder."))
    return shown
