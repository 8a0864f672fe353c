"""Synthesis of missing contrasts of phantoms from the known ones: one network for each task, and one for all tasks.

Networks are trained on 64 phantoms with the same number of steps, and evaluated on 8 others, with one draw and with the
mean of 5.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from idm_bundle.studies.runs import demo, evaluate, train

__all__ = ["STUDIES"]

_ALL = ["t1", "t1ce", "t2", "flair"]


def compare(changes: Mapping[str, Any], known_sets: Sequence[Sequence[str]], steps: int, side: int) -> dict[str, Any]:
    """Train on phantoms, then synthesise the unknown contrasts of the test split.

    Args:
        changes: Values of train.yaml and synthesis.yaml that are changed.
        known_sets: Known contrasts of each evaluation.
        steps: Iterations of training.
        side: Voxels per axis of a volume.
    Returns:
        ``parameters``, ``step_s`` (median), and the scalars of SynthesisMetrics by the known contrasts.
    """
    with tempfile.TemporaryDirectory() as folder:
        values = {**demo(folder, steps, side), **changes}
        _, trained = train(values, "synthesis")
        found: dict[str, Any] = {name: trained[name] for name in ("parameters", "step_s")}
        for known in known_sets:
            metrics = evaluate(
                {**values, "validation_known": list(known)}, "synthesis", "evaluate_synthesis"
            ).state.metrics
            found[", ".join(known)] = dict(metrics)
    return found


STUDIES = {
    "synthesis": {
        "T1 to T2": partial(compare, {}, [["t1"]]),
        "T2 to T1": partial(compare, {"known": ["t2"]}, [["t2"]]),
        "three to FLAIR": partial(compare, {"modalities": _ALL, "known": _ALL[:3]}, [_ALL[:3]]),
        "any to any": partial(
            compare, {"modalities": _ALL, "known": None}, [["t1"], ["t2"], _ALL[:3], ["t1", "flair"]]
        ),
    }
}
