"""One picture per evaluation: real, noisy, reconstructed and generated volumes side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import numpy as np
from ignite.engine import Engine, Events
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from monai.utils import convert_to_numpy
from torch import Tensor

from monai_idm.atomic_file import atomic_file
from monai_idm.file_stem import UniqueStems
from monai_idm.handlers.evaluated_cases import evaluated_cases

__all__ = ["MontageHandler", "montage"]

CAPTION = (
    "Grey scale 0 to 1. Axial and coronal: the patient's left is on the right of the image\n"
    "(radiological convention). Sagittal: anterior is on the left."
)
VIEWS = ("axial", "coronal", "sagittal")
COLUMNS = {"image": "real", "noisy": "noisy", "pred": "reconstructed"}  # item of a case: heading

# Per view: the axis cut through, the one that runs down the picture and the one that runs across. Volumes are
# RAS, so both run against the index: superior or anterior up, the patient's right on the left of the image.
AXES = {"axial": (2, 1, 0), "coronal": (1, 2, 0), "sagittal": (0, 2, 1)}
EDGES = {
    "axial": tuple("ALPR"),
    "coronal": tuple("SLIR"),
    "sagittal": tuple("SPIA"),
}  # clockwise from the top

WIDTH_PX, MIN_WIDTH_PX, MAX_TILE_PX, DPI = 1200, 640, 400, 100
LEFT_PX, GAP_PX, BREAK_PX, HEAD_PX, FOOT_PX = 44, 4, 14, 62, 42


def montage(
    columns: Mapping[str, Tensor],
    modalities: Sequence[str],
    mask: Tensor | None = None,
    title: str = "",
) -> Figure:
    """Draw three slices of each modality of several volumes.

    Rows are modality by axial, coronal and sagittal slice, columns the volumes, all on one fixed grey scale
    from 0 to 1. All are cut at the same place: the centre of mass of the mask.

    Args:
        columns: Volumes ``(C, D, H, W)`` in RAS orientation and [0, 1], by heading; one of another size is cut
            at the same fraction of each axis.
        modalities: Names of the ``C`` channels.
        mask: ``(1, D, H, W)`` or ``(C, D, H, W)``; ``None`` or empty: cut in the middle.
        title: Line above the picture.
    Returns:
        A figure with its own canvas, 1200 pixels wide (less for one or two volumes).
    Raises:
        ValueError: If there is no volume, or one is not ``(C, D, H, W)`` with a channel per modality.
    """
    volumes = {name: _checked(name, volume, modalities) for name, volume in columns.items()}
    if not volumes:
        raise ValueError("there is no volume to draw; give columns such as {'real': volume}")
    first = next(iter(volumes.values()))
    centre = _centre(mask)
    count = len(volumes)
    tile_px = min(MAX_TILE_PX, (WIDTH_PX - LEFT_PX) / count - GAP_PX)
    content_px = LEFT_PX + count * (tile_px + GAP_PX)
    width_px = max(MIN_WIDTH_PX, content_px)  # the caption needs some room
    left_px = (width_px - content_px) / 2
    rows = [(c, view, _height(first.shape[1:], view) * tile_px) for c in range(len(modalities)) for view in VIEWS]
    gaps_px = len(modalities) * (2 * GAP_PX + BREAK_PX)
    height_px = HEAD_PX + FOOT_PX + gaps_px + sum(height for *_, height in rows)

    figure = Figure(figsize=(width_px / DPI, height_px / DPI), dpi=DPI, facecolor="black")
    FigureCanvasAgg(figure)  # becomes figure.canvas; no pyplot, whose state is global
    top = float(HEAD_PX)
    for c, view, tile_height in rows:
        bottom = 1 - (top + tile_height) / height_px
        middle = bottom + tile_height / 2 / height_px
        label = f"{modalities[c]}   {view}"
        figure.text((left_px + 22) / width_px, middle, label, **_text(13, rotation=90, ha="center", va="center"))
        for column, (name, volume) in enumerate(volumes.items()):
            left = (left_px + LEFT_PX + column * (tile_px + GAP_PX)) / width_px
            axes = figure.add_axes((left, bottom, tile_px / width_px, tile_height / height_px))
            axes.imshow(_slice(volume[c], view, centre), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            axes.set_axis_off()
            if column == 0:
                _mark_edges(axes, view)
            if top == HEAD_PX:
                axes.set_title(name, pad=5, **_text(14))
        top += tile_height + (BREAK_PX if view == VIEWS[-1] else GAP_PX)
    figure.text(0.5, 1 - 20 / height_px, title, **_text(15, ha="center", va="center"))
    figure.text(0.5, FOOT_PX / 2 / height_px, CAPTION, **_text(10, ha="center", va="center", color="0.75"))
    return figure


class MontageHandler:
    """Write a picture of the first case of each evaluation: real, noisy, reconstructed, generated.

    Volumes have values in [0, 1] and RAS orientation. The first case's picture also shows the first volume of
    ``engine.state.generated``, if GenerateVolumes left any. Files are replaced in one step. In distributed runs
    process 0 draws.

    Args:
        output_dir: Folder for the pictures.
        modalities: Names of the channels in order.
        summary_writer: A TensorBoard ``SummaryWriter`` that gets the pictures too.
        num_cases: Number of cases to draw, each in its own picture.
        filename: Name of a picture; may contain ``{epoch}`` (the trainer's, if a ValidationHandler evaluates),
            ``{subject}`` (its :func:`~monai_idm.file_stem.file_stem`) and ``{case}``, counted from 1.
        columns: Headings by item of a case; an item that a case lacks is left out.
        centre: Item of a case, such as its mask, through whose centre of mass the slices go.
    """

    def __init__(
        self,
        output_dir: str | Path,
        modalities: Sequence[str],
        summary_writer: Any = None,
        num_cases: int = 1,
        filename: str = "montage_epoch{epoch:04d}.png",
        columns: Mapping[str, str] = COLUMNS,
        centre: str = "mask",
    ) -> None:
        self.output_dir = Path(output_dir)
        self.modalities = tuple(modalities)
        self.summary_writer = summary_writer
        self.num_cases = num_cases
        self.filename = filename
        self.columns = dict(columns)
        self.centre = centre
        self._stem = UniqueStems()
        self._cases_seen = 0
        self._first_case: dict[str, Any] | None = None

    def attach(self, engine: Engine) -> None:
        """Subscribe to an evaluator.

        Args:
            engine: A MONAI evaluator with ``decollate=True``.
        """
        engine.add_event_handler(Events.EPOCH_STARTED, self._started)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._iteration_completed)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._completed)

    def _started(self, engine: Engine) -> None:
        self._cases_seen, self._first_case = 0, None

    def _iteration_completed(self, engine: Engine) -> None:
        if self._cases_seen >= self.num_cases or idist.get_rank() != 0:
            return
        for case in evaluated_cases(engine)[: self.num_cases - self._cases_seen]:
            self._cases_seen += 1
            if self._cases_seen == 1:
                # to the host: the volumes must not take device memory for the rest of the epoch
                tensors = {k: v.detach().cpu() for k, v in case.items() if k in self._items and isinstance(v, Tensor)}
                self._first_case = {"subject": case["subject"], **tensors}
            else:
                self._draw(engine, case, self._cases_seen)

    def _completed(self, engine: Engine) -> None:
        if self._first_case is not None:
            self._draw(engine, self._first_case, 1, getattr(engine.state, "generated", None))
            self._first_case = None

    @property
    def _items(self) -> tuple[str, ...]:
        return (*self.columns, self.centre)

    def _draw(self, engine: Engine, case: Mapping[str, Any], number: int, generated: Tensor | None = None) -> None:
        epoch, subject = engine.state.epoch, str(case["subject"])
        columns = {heading: case[key] for key, heading in self.columns.items() if isinstance(case.get(key), Tensor)}
        if generated is not None:
            columns["generated"] = generated[0]
        # outside of training the epoch means nothing, and the file's name leaves it out
        title = f"epoch {epoch}, {subject}" if "{epoch" in self.filename else subject
        figure = montage(columns, self.modalities, case.get(self.centre), title)
        stem = self._stem(subject) if "{subject" in self.filename else ""
        name = self.filename.format(epoch=epoch, subject=stem, case=number)
        with atomic_file(self.output_dir / name) as unfinished:
            figure.savefig(unfinished, format="png", facecolor="black")
        if self.summary_writer is not None:
            # add_figure would import pyplot
            self.summary_writer.add_image(f"montage/case{number}", _pixels(figure), epoch, dataformats="HWC")


def _pixels(figure: Figure) -> np.ndarray:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


def _checked(name: str, volume: Tensor, modalities: Sequence[str]) -> np.ndarray:
    if volume.ndim != 4 or volume.shape[0] != len(modalities):
        raise ValueError(
            f"{name!r} has the shape {tuple(volume.shape)}; give one volume (C, D, H, W) whose C channels "
            f"are the {len(modalities)} modalities {tuple(modalities)}"
        )
    return convert_to_numpy(volume.detach().float())


def _centre(mask: Tensor | None) -> tuple[float, ...]:
    """Where to cut, as a fraction of each axis."""
    if mask is None or not bool(mask.any()):
        return (0.5, 0.5, 0.5)
    inside = convert_to_numpy(mask).astype(bool).any(0)
    middle = np.argwhere(inside).mean(0) + 0.5  # voxel i spans i to i + 1
    return tuple(middle / inside.shape)


def _slice(volume: np.ndarray, view: str, centre: tuple[float, ...]) -> np.ndarray:
    through, _, _ = AXES[view]
    index = min(int(centre[through] * volume.shape[through]), volume.shape[through] - 1)
    return volume.take(index, axis=through).T[::-1, ::-1]


def _height(size: Sequence[int], view: str) -> float:
    """Height of a view over the width of the widest one."""
    _, down, _ = AXES[view]
    return size[down] / max(size[across] for _, _, across in AXES.values())


def _mark_edges(axes: Any, view: str) -> None:
    top, right, bottom, left = EDGES[view]
    for letter, x, y in ((top, 0.5, 0.97), (right, 0.97, 0.5), (bottom, 0.5, 0.03), (left, 0.03, 0.5)):
        vertical = {0.97: "top", 0.03: "bottom"}.get(y, "center")
        horizontal = {0.97: "right", 0.03: "left"}.get(x, "center")
        style = _text(10, ha=horizontal, va=vertical, path_effects=[withStroke(linewidth=2, foreground="black")])
        axes.text(x, y, letter, transform=axes.transAxes, **style)


def _text(size: float, **style: Any) -> dict[str, Any]:
    return {"color": "white", "fontsize": size, **style}
