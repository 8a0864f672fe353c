"""How the trainings of the study ``brains`` went: loss, quality and hours, for users to compare theirs with."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from statistics import fmean, median
from typing import Any

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from idm_bundle.studies import brains
from idm_bundle.studies.configs import configured

__all__ = ["STUDIES", "course"]

_PARTS = 40
# what a loss depends on most, by which a report finds the course to show beside it
_KNOBS = (
    *("preset", "spatial_size", "bookend_stride", "prediction_type", "noise_shift", "timestep_power", "batch_size"),
    "muon",
)


def course(name: str, steps: int, side: int, dataset_dir: str, work: str) -> dict[str, Any]:
    """The course of a training, as far as it got.

    Args:
        name: Its name in the study ``brains``.
        steps: Iterations of the whole training.
        side: Voxels per axis of a volume.
        dataset_dir: Folder of the cases.
        work: Folder that keeps the trainings.
    Returns:
        ``knobs``; ``iterations``; ``hours``, iterations times their median time, without validation; ``loss``, the
        means of 40 parts after the number of iterations; and ``psnr_brain``, of reconstructions, by epoch.
    """
    values = brains.kept(name, dataset_dir, work, steps, side)
    config = configured(values)
    events = EventAccumulator(f"{values['output_dir']}/tensorboard", size_guidance={"scalars": 0}).Reload()
    latest = {point.step: point for point in events.Scalars("train_loss")}  # a resumed training repeats some steps
    points = [latest[step] for step in sorted(latest)]
    seconds = median(b.wall_time - a.wall_time for a, b in pairwise(points))
    length = -(-len(points) // _PARTS)
    parts = [points[i : i + length] for i in range(0, len(points), length)]
    return {
        "knobs": {knob: config.get_parsed_content(knob) for knob in _KNOBS},
        "iterations": len(points),
        "hours": len(points) * seconds / 3600,
        "loss": [[part[-1].step, fmean(point.value for point in part)] for part in parts],
        "psnr_brain": [[point.step, point.value] for point in events.Scalars("psnr_brain")],
    }


STUDIES = {"course": {name: partial(course, name) for name in brains.STUDIES["brains"]}}
