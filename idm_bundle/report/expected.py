"""The loss of an earlier, healthy training with the same settings, to compare a run with."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from idm_bundle.installed import bundle_here_or_installed

__all__ = ["Course", "expected_course"]

# settings on which the loss depends most
_SETTINGS = ("preset", "spatial_size", "bookend_stride", "prediction_type", "noise_shift")


class Course(NamedTuple):
    """How a training went.

    Attributes:
        text: What was trained, for the legend.
        loss: Iterations, and the mean of the loss around them.
    """

    text: str
    loss: Sequence[tuple[int, float]]


def expected_course(knobs: Mapping[str, Any]) -> Course | None:
    """The course in ``study_course.json`` of a training with the same settings; None if there is none.

    Args:
        knobs: Values by the name of the knob.
    """
    try:
        text = (bundle_here_or_installed() / "docs" / "study_course.json").read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    for run in json.loads(text)["results"].values():
        if all(knobs.get(name) == run["knobs"][name] for name in _SETTINGS):
            return Course(run["text"], [(step, loss) for step, loss in run["loss"]])
    return None
