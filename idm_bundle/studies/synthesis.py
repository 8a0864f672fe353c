"""Synthesis of missing contrasts of phantoms from the known ones.

- ``synthesis``: one network for each task, and one for all tasks; each also trained for regression, in one pass.
- ``few_steps``: T2 from T1 in 1, 2 and 4 steps and in 20, and by the same network trained for regression, in one pass.

Networks are trained on 64 phantoms with the same number of steps, and evaluated on 8 others, with one draw and with the
mean of 5.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from idm_bundle.studies.runs import demo, evaluate, train

__all__ = ["DRAWS_OF", "STUDIES", "TASKS"]

DRAWS_OF = ((1, 1), (2, 1), (4, 1), (20, 5))  # steps, and draws with as many
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


def few_steps(regression: bool, steps: int, side: int) -> dict[str, Any]:
    """Train on phantoms, then synthesise T2 of the test split in few and in many steps.

    Args:
        regression: Whether the network predicts in one pass, without noise.
        steps: Iterations of training.
        side: Voxels per axis of a volume.
    Returns:
        ``step_s`` (median); and by the number of steps the scalars of SynthesisMetrics of a draw and, for 20 steps, of
        the mean of 5 draws.
    """
    with tempfile.TemporaryDirectory() as folder:
        values = {**demo(folder, steps, side), "regression": regression}
        _, trained = train(values, "synthesis")
        found: dict[str, Any] = {"step_s": trained["step_s"]}
        for number, draws in DRAWS_OF[:1] if regression else DRAWS_OF:
            how = {"num_inference_steps": number, "num_draws": draws}
            metrics = evaluate({**values, **how}, "synthesis", "evaluate_synthesis").state.metrics
            found[f"{number} steps"] = dict(metrics)
        return found


# by the name of the task, values of synthesis.yaml and the known contrasts of each evaluation
TASKS: dict[str, tuple[dict[str, Any], list[list[str]]]] = {
    "T1 to T2": ({}, [["t1"]]),
    "T2 to T1": ({"known": ["t2"]}, [["t2"]]),
    "three to FLAIR": ({"modalities": _ALL, "known": _ALL[:3]}, [_ALL[:3]]),
    "any to any": ({"modalities": _ALL, "known": None}, [["t1"], ["t2"], _ALL[:3], ["t1", "flair"]]),
}
STUDIES = {
    "few_steps": {
        "diffusion": partial(few_steps, False),
        "regression": partial(few_steps, True),
    },
    "synthesis": {
        f"{name}{words}": partial(compare, {**changes, "regression": regression}, known_sets)
        for words, regression in {"": False, ", regression": True}.items()
        for name, (changes, known_sets) in TASKS.items()
    },
}
