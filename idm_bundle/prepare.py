"""``python -m idm_bundle prepare``: read every case of a BraTS folder, and split the sound ones."""

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
    label_name: str | None = None,
) -> dict[str, str]:
    """Read every volume, and write a datalist of the cases that can be trained on; nothing in the folder is changed.

    Args:
        dataset_dir: Folder in one of BraTS's layouts.
        file: JSON file to write: the datalist, for ``--datalist_file``, and the problems.
        modalities: Contrasts that every case needs, of t1, t1ce, t2, flair.
        label_map: What the numbers of labels mean, a name such as "brats2020" or numbers by name; every case then needs
            a label with these numbers. None: labels are not read.
        seed: Seed of the split.
        patients_file: CSV file with the columns subject and patient; None: the patient follows from the case's name.
        air: Value outside of the brain; None: found for each volume.
        label_name: Last part of the names of label files, as ``seg``; every case then needs a label. None: ``seg``, if
            there is a ``label_map``.
    Returns:
        What is wrong with each case that is left out, by subject; it is also printed.
    Raises:
        FileNotFoundError, NotADirectoryError, ValueError: If there is no case, or no sound one, or the numbers of all
            labels together contradict the map.
    """
    labels = label_map is not None or label_name is not None
    problems = problem_cases(dataset_dir, modalities, labels, label_name or "seg")
    found = brats_datalist(dataset_dir, modalities, labels, problems, label_name or "seg")
    items = with_patients(found, patients_file)
    reader = _Reader(modalities, labels, label_map, air)
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        bar = tqdm(threads.map(reader, items), "reading", len(items), unit="case", disable=None)
        problems |= {item["subject"]: problem for item, problem in zip(items, bar, strict=True) if problem}
    for subject, problem in sorted(problems.items()):
        print(f"{subject}: {problem}")
    print(count_patients([item for item in items if item["subject"] not in problems]))
    if label_map is not None:
        print(f"labels: {count_labels(reader.labels, label_map)}")
        if contradiction := contradicted_by_numbers(reader.labels, label_map):
            raise ValueError(contradiction)
    if all(item["subject"] in problems for item in items):
        raise ValueError(
            f"none of the {len(problems)} cases in {dataset_dir} is sound; see above what is wrong with each"
        )
    prepare_datalist(
        dataset_dir,
        file,
        modalities,
        seed=seed,
        label_map=label_map,
        label_name=label_name,
        problems=problems,
        allow_links=True,
        patients_file=patients_file,
    )
    return problems


class _Reader:
    """Loads a case as training does and returns what is wrong with it, or ""; keeps the numbers of its label."""

    def __init__(self, modalities: Sequence[str], labels: bool, label_map: LabelMap | None, air: float | None) -> None:
        self.load_label = LoadLabeld("label") if labels else None
        self.load = LoadVolumesd("image", modalities=modalities, air=air)
        self.to_regions: LabelToRegionsd | None = None
        if label_map is not None:  # any region of the map will do: it only checks whether the numbers are known
            self.to_regions = LabelToRegionsd("label", [next(iter(label_numbers(label_map)))], label_map)
        self.labels: dict[str, list[float]] = {}

    def __call__(self, item: dict[Any, Any]) -> str:
        try:
            case = self.load(item)
            if self.load_label is not None:
                case = self.load_label(case)
            if self.to_regions is not None:
                self.labels[item["subject"]] = [round(n, 3) for n in case["label"].unique().tolist()]
                self.to_regions(case)
        except Exception as error:  # readers of damaged files may raise anything
            return str(error)
        return ""
