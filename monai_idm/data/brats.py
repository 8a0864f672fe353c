"""Finds the cases of a BraTS data set on disk, in the layout of any year.

Layouts (endings ``.nii`` and ``.nii.gz``, upper or lower case; names that start with a dot are ignored)::

    BraTS 2018 to 2021   <case>/<case>_{t1,t1ce,t2,flair,seg}.nii.gz   also one folder deeper: HGG/<case>
    BraTS 2023 and later <case>/<case>-{t1n,t1c,t2w,t2f,seg}.nii.gz    also one folder deeper
    Decathlon Task01     imagesTr/<case>.nii.gz in 4D, labelsTr/<case>.nii.gz, dataset.json
    nnU-Net              imagesTr/<case>_{0000,0001,...}.nii.gz, labelsTr/<case>.nii.gz, dataset.json

In every layout, the modalities are called ``t1, t1ce, t2, flair`` here.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.utils import ensure_tuple

from monai_idm.data.layouts.case import Case, visible_folders
from monai_idm.data.layouts.folders import case_in, folder_cases
from monai_idm.data.layouts.task_folder import task_folder_cases
from monai_idm.data.modalities import MODALITIES
from monai_idm.file_stem import UniqueStems

__all__ = ["brats_datalist", "problem_cases"]

_NAMED_IN_ERROR = 5  # cases: enough to see the pattern, few enough to read
_MAX_LEVELS = 3  # how deep to search for cases in other folders, to hint at them
_MAX_FOLDERS = 2000  # how many folders to search for them


def brats_datalist(
    dataset_dir: str | os.PathLike,
    modalities: Sequence[str] = ("t1", "t2"),
    labels: bool = False,
    exclude: Collection[str] = (),
    label_name: str = "seg",
) -> list[dict[str, Any]]:
    """List the cases of a BraTS data set.

    Args:
        dataset_dir: Folder that holds the cases in one of this module's layouts.
        modalities: Some of ``t1, t1ce, t2, flair``, in the order of the channels; none, if labels alone are needed.
        labels: Whether to list each case's segmentation too; every case then needs one.
        exclude: Subjects to leave out.
        label_name: Last part of the names of label files in BraTS's layouts: ``<case>_seg.nii.gz``.
    Returns:
        One item per case, sorted by subject: ``{"subject": name of the case, "image": [path per modality]}``,
        with ``"label": path`` if ``labels``. Where one 4D file holds all modalities, ``"image"`` repeats its
        path and ``"channels": [index per modality]`` says which channel each one is. All paths are absolute.
    Raises:
        FileNotFoundError: If the folder is missing or holds no case, or a case lacks a file that is needed.
        NotADirectoryError: If ``dataset_dir`` is a file.
        ValueError: If a modality is unknown, two folders have the same subject, two subjects' files would have the
            same names (:func:`~monai_idm.file_stem.file_stem`), or a case has two files for one volume.
    """
    names = _volume_names(modalities, labels)
    cases = {subject: case for subject, case in _cases(dataset_dir, label_name).items() if subject not in exclude}
    _require_complete(cases, names)
    UniqueStems().require(cases)
    items = []
    for subject, case in sorted(cases.items()):
        images = [case.volumes[name][0] for name in names if name != "seg"]
        item: dict[str, Any] = {"subject": subject, "image": [str(path) for path, _ in images]}
        channels = [channel for _, channel in images if channel is not None]
        if channels:
            item["channels"] = channels
        if labels:
            item["label"] = str(case.volumes["seg"][0][0])
        items.append(item)
    return items


def problem_cases(
    dataset_dir: str | os.PathLike,
    modalities: Sequence[str] = ("t1", "t2"),
    labels: bool = False,
    label_name: str = "seg",
) -> dict[str, str]:
    """Find the subjects that lack a file or have several for one volume, each with a description of the problem.

    Arguments and the other errors are those of :func:`brats_datalist`.
    """
    names = _volume_names(modalities, labels)
    problems = {
        subject: "; ".join(filter(None, (case.contradictions(names), case.missing(names))))
        for subject, case in _cases(dataset_dir, label_name).items()
    }
    return {subject: problem for subject, problem in problems.items() if problem}


def _cases(dataset_dir: str | os.PathLike, label_name: str) -> dict[str, Case]:
    root = Path(os.path.abspath(Path(dataset_dir).expanduser()))  # abspath keeps symbolic links as they are
    if not root.exists():
        raise FileNotFoundError(
            f"dataset_dir {root} does not exist; it must be the folder that holds the cases: correct the path"
        )
    if not root.is_dir():
        medmnist = "for a file of MedMNIST3D, add the overlay medmnist.yaml" if root.suffix == ".npz" else ""
        raise NotADirectoryError(
            f"dataset_dir {root} is a file; it must be the folder that holds the cases: "
            f"{medmnist or 'unpack it, or give the folder that contains it'}"
        )
    cases = _find_cases(root, label_name)
    if not cases:
        raise FileNotFoundError(
            f"no case in dataset_dir {root}; looked for <case>/<case>_t1.nii.gz (BraTS 2018 to 2021) and "
            "<case>/<case>-t1n.nii.gz (BraTS 2023 and later), both also one folder deeper, and for "
            "imagesTr/<case>.nii.gz (Decathlon Task01) and imagesTr/<case>_0000.nii.gz (nnU-Net): "
            + (_hint_at_cases(root) or "give the folder that holds the cases, named like this")
        )
    return cases


def _find_cases(root: Path, label_name: str = "seg") -> dict[str, Case]:
    return task_folder_cases(root) if (root / "imagesTr").is_dir() else folder_cases(root, label_name)


def _hint_at_cases(root: Path) -> str:
    """A hint that the cases are one folder up, or in folders further down; empty if they are in neither."""
    if root.name == "imagesTr" or case_in(root) is not None:
        return f"this folder is part of the data set, give the one above it: --dataset_dir {root.parent}"
    folders, searched = [root], 0
    for level in range(1, _MAX_LEVELS + 1):
        folders = [inner for outer in folders for inner in _readable_folders(outer)][: _MAX_FOLDERS - searched]
        searched += len(folders)
        counts = {folder: count for folder in folders if (count := _count_cases(folder))}
        if counts:
            named = [f"{folder} ({count})" for folder, count in list(counts.items())[:_NAMED_IN_ERROR]]
            deeper = "one level" if level == 1 else f"{level} levels"
            return (
                f"cases were found {deeper} deeper, in {' and in '.join(named)}: give --dataset_dir "
                f"{next(iter(counts))}{', or another of these' if len(counts) > 1 else ''}"
            )
    return ""


def _readable_folders(parent: Path) -> list[Path]:
    try:
        return visible_folders(parent)
    except OSError:
        return []


def _count_cases(folder: Path) -> int:
    try:
        return len(_find_cases(folder))
    except (ValueError, OSError):  # searching for a hint must not raise an error of its own
        return 0


def _volume_names(modalities: Sequence[str], labels: bool) -> tuple[str, ...]:
    """Names of the volumes that a case needs."""
    modalities = ensure_tuple(modalities)
    unknown = [name for name in modalities if name not in MODALITIES]
    if unknown or not (modalities or labels):
        raise ValueError(
            f"modalities {list(modalities)} must be some of {', '.join(MODALITIES)}, at least one: "
            f"{'correct ' + ', '.join(map(repr, unknown)) if unknown else 'name one'} "
            "(these names are the same for every year's data, whatever its files are called)"
        )
    return (*modalities, "seg") if labels else modalities


def _require_complete(cases: Mapping[str, Case], names: Sequence[str]) -> None:
    """Check that each case has one file of each of ``names``."""
    contradictory = {subject: problem for subject, case in cases.items() if (problem := case.contradictions(names))}
    if contradictory:
        raise ValueError(
            f"{len(contradictory)} of {len(cases)} cases are inconsistent: {_summarise(contradictory)}. Correct "
            "these cases, move them elsewhere, or let python -m idm_bundle prepare write a datalist without them"
        )
    incomplete = {subject: problem for subject, case in cases.items() if (problem := case.missing(names))}
    if incomplete:
        raise FileNotFoundError(
            f"{len(incomplete)} of {len(cases)} cases are incomplete: {_summarise(incomplete)}. Every case needs "
            f"{', '.join(names)}: complete these cases, move them elsewhere, request only what all cases have, or let "
            "python -m idm_bundle prepare write a datalist without them"
        )


def _summarise(problems: Mapping[str, str]) -> str:
    shown = [f"{subject} {problem}" for subject, problem in sorted(problems.items())[:_NAMED_IN_ERROR]]
    more = f"; and {len(problems) - len(shown)} more" if len(problems) > len(shown) else ""
    return "; ".join(shown) + more
