"""Missing contrasts of phantoms, made from those that are there: one network per task, and one for all.

Networks are trained on 64 phantoms, at equal steps, and judged on 8 others, by one draw and by the mean of 5.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from idm_bundle.studies.runs import demo, evaluate, train

__all__ = ["STUDIES"]

_ALL = ["t1", "t1ce", "t2", "flair"]


def compare(changes: Mapping[str, Any], judged: Sequence[Sequence[str]], steps: int, side: int) -> dict[str, Any]:
    """Train on phantoms, then make the contrasts of the test split that are not known.

    Args:
        changes: Of the values of train.yaml with synthesis.yaml.
        judged: Which contrasts are known, one evaluation for each.
        steps: Iterations of training.
        side: Voxels per axis of a volume.
    Returns:
        ``parameters``, ``step_s`` (median), and by the known contrasts the scalars of SynthesisMetrics.
    """
    with tempfile.TemporaryDirectory() as folder:
        values = {**demo(folder, steps, side), **changes}
        _, trained = train(values, "synthesis")
        found: dict[str, Any] = {name: trained[name] for name in ("parameters", "step_s")}
        for known in judged:
            metrics = evaluate({**values, "judged_known": list(known)}, "synthesis", "evaluate_synthesis").state.metrics
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
