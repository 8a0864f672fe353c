"""What a network that was trained on real brains of one contrast does for each task besides generation.

Trainings are kept in the folder ``--work``, and an interrupted one is resumed there.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

from idm_bundle.studies.brains import training_values
from idm_bundle.studies.runs import evaluate, train
from monai_idm.atomic_file import write_json

__all__ = ["STUDIES"]

_NUM_DRAWS = 5
_REGIONS = {  # by the numbers of DLMUSE
    "outer fluid": [1],
    "lateral ventricles": [49, 50, 51, 52],
    "other ventricles": [4, 11, 46],
    "cortex": [*range(100, 208)],
    "deep grey matter": [23, 30, 31, 32, 36, 37, 47, 48, *range(55, 61), 75, 76],
    "white matter": [*range(81, 95)],
    "corpus callosum": [95],
    "cerebellar grey matter": [38, 39, 71, 72, 73],
    "cerebellar white matter": [40, 41],
    "brain stem and rest": [35, 61, 62, 69],
}
_CHANGES: dict[str, dict[str, Any]] = {  # values of the overlays, by the task's name
    "inpainting": {},
    "super_resolution": {},
    "semantic": {"labels": _REGIONS, "label_name": "dlmuse"},
}


def evaluated(task: str, steps: int, side: int, dataset_dir: str, work: str) -> dict[str, Any]:
    """Train for a task, and evaluate it on the test cases.

    Args:
        task: Name of the task, and of its overlay.
        steps: Iterations of training.
        side: Voxels per axis of a volume.
        dataset_dir: Folder of the cases.
        work: Folder that keeps the trainings.
    Returns:
        What the training measured, without the losses; and ``summary``, the statistics of T1 over the test cases by
        region, method and metric.
    """
    values = {**training_values(dataset_dir, Path(work, task), steps, side), "num_draws": _NUM_DRAWS, **_CHANGES[task]}
    done = Path(values["output_dir"], "training.json")
    if not done.is_file():
        _, measured = train({**values, "resume": True}, task)
        del measured["losses"]
        write_json(done, measured)
    evaluate({**values, "evaluation_split": "test"}, task, f"evaluate_{task}")
    report = Path(values["output_dir"], "evaluation", f"{task}.json")
    return {**json.loads(done.read_text()), "summary": json.loads(report.read_text())["summary"]["image"]["t1"]}


STUDIES = {"brain_tasks": {task: partial(evaluated, task) for task in _CHANGES}}
