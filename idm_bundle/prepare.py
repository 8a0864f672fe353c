"""``python -m idm_bundle prepare``: look at every case of a BraTS folder, and split those that are sound."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tqdm import tqdm

from monai_idm.data import (
    LabelToRegionsd,
    LoadLabeld,
    LoadVolumesd,
    brats_datalist,
    prepare_datalist,
    problem_cases,
    with_patients,
)
from monai_idm.data.label_maps import LabelMap, contradicted_by_numbers, count_labels, label_numbers
from monai_idm.data.patients import count_patients

__all__ = ["prepare"]


def prepare(
    dataset_dir: str | os.PathLike,
    file: str | os.PathLike,
    modalities: Sequence[str] = ("t1", "t2"),
    label_map: LabelMap | None = None,
    seed: int = 0,
    patients_file: str | os.PathLike | None = None,
    air: float | None = None,
) -> dict[str, str]:
    """Read every volume, and write a datalist of the cases that can be trained on; nothing in the folder is changed.

    Args:
        dataset_dir: In one of BraTS's layouts.
        file: The datalist, JSON, for ``--datalist_file`` of trainings; it also holds the problems.
        modalities: Of t1, t1ce, t2, flair.
        label_map: Every case needs a label with the numbers of this map, a name as "brats2020" or the numbers of the
            parts; None: labels are not read.
        seed: Seed of the split.
        patients_file: A CSV file with the columns subject and patient; None: names alone say whose scan a case is.
        air: Value outside of the brain; None: found for each volume.
    Returns:
        Subject to what is wrong with it, for each case that is left out; they are printed.
    Raises:
        FileNotFoundError, NotADirectoryError, ValueError: If there is no case, or none that is sound, or the
            numbers of all labels together contradict the map.
    """
    labels = label_map is not None
    problems = problem_cases(dataset_dir, modalities, labels)
    items = with_patients(brats_datalist(dataset_dir, modalities, labels, problems), patients_file)
    read = _Reader(modalities, label_map, air)
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        bar = tqdm(threads.map(read, items), "reading", len(items), unit="case", disable=None)
        problems |= {item["subject"]: problem for item, problem in zip(items, bar, strict=True) if problem}
    for subject, problem in sorted(problems.items()):
        print(f"{subject}: {problem}")
    print(count_patients([item for item in items if item["subject"] not in problems]))
    if label_map is not None:
        print(f"labels: {count_labels(read.labels, label_map)}")
        if contradiction := contradicted_by_numbers(read.labels, label_map):
            raise ValueError(contradiction)
    if all(item["subject"] in problems for item in items):
        raise ValueError(f"none of the {len(problems)} cases in {dataset_dir} is sound; see above what each one lacks")
    prepare_datalist(
        dataset_dir,
        file,
        modalities,
        seed=seed,
        label_map=label_map,
        problems=problems,
        allow_links=True,
        patients_file=patients_file,
    )
    return problems


class _Reader:
    """Loads a case as trainings do, and says what is wrong with it, or nothing; keeps the numbers of its label."""

    def __init__(self, modalities: Sequence[str], label_map: LabelMap | None, air: float | None) -> None:
        self.load = LoadVolumesd("image", modalities=modalities, air=air)
        self.to_regions: LabelToRegionsd | None = None
        if label_map is not None:  # any one region of the map: all that is asked is whether it knows the numbers
            self.to_regions = LabelToRegionsd("label", [next(iter(label_numbers(label_map)))], label_map)
        self.labels: dict[str, list[float]] = {}

    def __call__(self, item: dict[Any, Any]) -> str:
        try:
            case = self.load(item)
            if self.to_regions is not None:
                case = LoadLabeld("label")(case)
                self.labels[item["subject"]] = [round(n, 3) for n in case["label"].unique().tolist()]
                self.to_regions(case)
        except Exception as error:  # damaged files raise whatever their readers do
            return str(error)
        return ""
