"""``python -m idm_bundle prepare``: look at every case of a BraTS folder, and split those that are sound."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from monai.transforms import LoadImaged
from tqdm import tqdm

from monai_idm.data import (
    LabelToRegionsd,
    LoadVolumesd,
    brats_datalist,
    prepare_datalist,
    problem_cases,
    with_patients,
)
from monai_idm.data.patients import count_patients

__all__ = ["prepare"]


def prepare(
    dataset_dir: str | os.PathLike,
    file: str | os.PathLike,
    modalities: Sequence[str] = ("t1", "t2"),
    label_map: str | None = None,
    seed: int = 0,
    patients_file: str | os.PathLike | None = None,
) -> dict[str, str]:
    """Read every volume, and write a datalist of the cases that can be trained on; nothing in the folder is changed.

    Args:
        dataset_dir: In one of BraTS's layouts.
        file: The datalist, JSON, for ``--datalist_file`` of trainings; it also holds the problems.
        modalities: Of t1, t1ce, t2, flair.
        label_map: Every case needs a label with the numbers of this map, as "brats2020"; None: labels are not read.
        seed: Seed of the split.
        patients_file: A CSV file with the columns subject and patient; None: names alone say whose scan a case is.
    Returns:
        Subject to what is wrong with it, for each case that is left out; they are printed.
    Raises:
        FileNotFoundError, NotADirectoryError, ValueError: If there is no case, or none that is sound.
    """
    labels = label_map is not None
    problems = problem_cases(dataset_dir, modalities, labels)
    items = with_patients(brats_datalist(dataset_dir, modalities, labels, problems), patients_file)
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        found = threads.map(partial(_problem, label_map=label_map), items)
        bar = tqdm(found, "reading", len(items), unit="case", disable=None)
        problems |= {item["subject"]: problem for item, problem in zip(items, bar, strict=True) if problem}
    for subject, problem in sorted(problems.items()):
        print(f"{subject}: {problem}")
    print(count_patients([item for item in items if item["subject"] not in problems]))
    prepare_datalist(
        dataset_dir,
        file,
        modalities,
        seed=seed,
        labels=labels,
        problems=problems,
        allow_links=True,
        patients_file=patients_file,
    )
    return problems


def _problem(item: dict[Any, Any], label_map: str | None) -> str:
    """What is wrong with a case, or nothing."""
    try:
        image = LoadVolumesd("image")(item)["image"]
        if label_map is not None:
            label = LoadImaged("label", ensure_channel_first=True)(item)["label"]
            if label.shape[1:] != image.shape[1:]:
                return f"the label has {tuple(label.shape[1:])} voxels, the images have {tuple(image.shape[1:])}"
            LabelToRegionsd("label", label_map=label_map)({"label": label})
    except Exception as error:  # damaged files raise whatever their readers do
        return str(error)
    return ""
