"""The loss of an earlier, healthy training with the same settings, to compare a run with."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from idm_bundle.installed import bundle_here_or_installed

__all__ = ["Course", "expected_course"]


class Course(NamedTuple):
    """How a training went.

    Attributes:
        text: What it was, for the legend.
        loss: Iterations, and the mean of the loss before them.
    """

    text: str
    loss: Sequence[tuple[int, float]]


def expected_course(knobs: Mapping[str, Any]) -> Course | None:
    """The course in ``study_course.json`` of a training of real brains with the same settings; None if there is none.

    Args:
        knobs: Values by the name of the knob.
    """
    try:
        text = (bundle_here_or_installed() / "docs" / "study_course.json").read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    for run in json.loads(text)["results"].values():
        batch_size = run["knobs"].pop("batch_size")  # which a run does not record
        if all(knobs.get(name) == value for name, value in run["knobs"].items()):
            return Course(f"T1 of 118 healthy adults, batch size {batch_size}", run["loss"])
    return None
