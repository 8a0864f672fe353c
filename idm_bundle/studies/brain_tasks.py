"""What a network that was trained on real brains of one contrast does for each task besides generation.

Each is judged with draws of many steps, and with draws of 1, 2 and 4: the fewer, the more a draw resembles their mean.
Trainings are kept in the folder ``--work``, and an interrupted one is resumed there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from idm_bundle.studies import tissues
from idm_bundle.studies.brains import training_values
from idm_bundle.studies.configs import configured
from idm_bundle.studies.runs import evaluate, train_once
from idm_bundle.studies.synthesis import DRAWS_OF

__all__ = ["STUDIES"]

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


def evaluated(
    task: str, steps: int, side: int, dataset_dir: str, work: str, regression: bool = False
) -> dict[str, Any]:
    """Train for a task, and evaluate it on the test cases.

    Args:
        task: Name of the task, and of its overlay.
        steps: Iterations of training.
        side: Voxels per axis of a volume.
        dataset_dir: Folder of the cases.
        work: Folder that keeps the trainings.
        regression: Whether the network predicts in one pass, without noise.
    Returns:
        What the training measured, without the losses; ``summary``, the statistics of T1 over the test cases by region,
        method and metric; without regression ``few_steps``, the same by the number of steps of a single draw; and of
        brains from label maps also ``dice``, of these and the labels of the brains that were drawn, by a network that
        has seen real brains only.
    """
    values = {
        **training_values(dataset_dir, Path(work, f"{task}_regression" if regression else task), steps, side),
        "bookend_stride": 2,  # a step takes a sixth of the time
        "regression": regression,
        **_CHANGES[task],
    }
    values["val_interval"] = max(1, values["max_epochs"] // 4)  # each draws all validation cases
    measured = train_once(Path(values["output_dir"], "training.json"), values, task)
    del measured["losses"]
    of = partial(_summary, values, task)
    *few, (many, draws) = DRAWS_OF
    found = measured if regression else {**measured, "few_steps": {str(steps): of(steps, one) for steps, one in few}}
    found["summary"] = of(many, 1 if regression else draws)
    if task == "semantic":
        found["dice"] = _segmented_back(values, side, Path(work, "tissues.pt"))
    return found


def _summary(values: Mapping[str, Any], task: str, steps: int, draws: int) -> dict[str, Any]:
    """Evaluate on the test cases, and return the statistics of T1."""
    how = {"evaluation_split": "test", "num_inference_steps": steps, "num_draws": draws}
    evaluate({**values, **how}, task, f"evaluate_{task}")
    report = json.loads((_evaluation(values) / f"{task}.json").read_text())
    return report["summary"]["image"]["t1"]


def _evaluation(values: Mapping[str, Any]) -> Path:
    """Folder of the last evaluation."""
    return Path(values["output_dir"], "evaluation")


def _segmented_back(values: Mapping[str, Any], side: int, file: Path) -> dict[str, dict[str, float]]:
    """Dice of each tissue between the label maps and segmentations of the brains: the drawn ones, and the real ones."""
    datalist = configured(values, "semantic").get_parsed_content("datalist")
    network, of_real = tissues.segmenter(datalist, side, tissues.STEPS, file)
    folder = _evaluation(values)
    items = [{**item, "drawn": [str(folder / f"{item['subject']}_t1_synthetic.nii.gz")]} for item in datalist["test"]]
    return {"drawn": tissues.dice(network, items, side, "drawn"), "real": of_real}


STUDIES = {
    "brain_tasks": {
        f"{task}{words}": partial(evaluated, task, regression=regression)
        for task in _CHANGES
        for words, regression in {"": False, ", regression": True}.items()
    }
}
