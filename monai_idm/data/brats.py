"""Finds the cases of a BraTS data set on disk, whatever year's layout it has.

Layouts (endings ``.nii`` and ``.nii.gz``, upper or lower case; names that start with a dot are passed over)::

    BraTS 2018 to 2021   <case>/<case>_{t1,t1ce,t2,flair,seg}.nii.gz   also one folder deeper: HGG/<case>
    BraTS 2023 and on    <case>/<case>-{t1n,t1c,t2w,t2f,seg}.nii.gz    also one folder deeper
    Decathlon Task01     imagesTr/<case>.nii.gz in 4D, labelsTr/<case>.nii.gz, dataset.json
    nnU-Net              imagesTr/<case>_{0000,0001,...}.nii.gz, labelsTr/<case>.nii.gz, dataset.json

The modalities are called ``t1, t1ce, t2, flair`` here, in every layout.
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
_DEEPER = 3  # levels of folders, and how many folders, that are looked into for a hint where the cases are
_LOOKED_INTO = 2000


def brats_datalist(
    dataset_dir: str | os.PathLike,
    modalities: Sequence[str] = ("t1", "t2"),
    labels: bool = False,
    exclude: Collection[str] = (),
) -> list[dict[str, Any]]:
    """List the cases of a BraTS data set.

    Args:
        dataset_dir: Folder that holds the cases in one of this module's layouts.
        modalities: Which of ``t1, t1ce, t2, flair``, in the order the channels shall have.
        labels: Also give each case's segmentation; every case then needs one.
        exclude: Subjects to pass over.
    Returns:
        One item per case, sorted by subject: ``{"subject": name of the case, "image": [path per modality]}``,
        with ``"label": path`` if ``labels``. Where one 4D file holds all modalities, ``"image"`` repeats its
        path and ``"channels": [index per modality]`` says which channel each one is. All paths are absolute.
    Raises:
        FileNotFoundError: If the folder is missing, holds no case, or a case lacks a file asked for.
        NotADirectoryError: If ``dataset_dir`` is a file.
        ValueError: If a modality is unknown, two folders give the same subject, two subjects' files would have the
            same names (:func:`~monai_idm.file_stem.file_stem`), or two files give the same volume of a case.
    """
    names = _names(modalities, labels)
    cases = {subject: case for subject, case in _cases(dataset_dir).items() if subject not in exclude}
    _require(cases, names)
    UniqueStems().require(cases)
    items = []
    for subject, case in sorted(cases.items()):
        paths, channels = zip(*(case.volumes[name][0] for name in names if name != "seg"), strict=True)
        item: dict[str, Any] = {"subject": subject, "image": list(map(str, paths))}
        if None not in channels:
            item["channels"] = list(channels)
        if labels:
            item["label"] = str(case.volumes["seg"][0][0])
        items.append(item)
    return items


def problem_cases(
    dataset_dir: str | os.PathLike, modalities: Sequence[str] = ("t1", "t2"), labels: bool = False
) -> dict[str, str]:
    """The subjects that lack a file or have two for one volume, and what each lacks or has twice.

    Arguments and the other errors are those of :func:`brats_datalist`.
    """
    names = _names(modalities, labels)
    told = {
        subject: "; ".join(filter(None, (case.contradictions(names), case.missing(names))))
        for subject, case in _cases(dataset_dir).items()
    }
    return {subject: problem for subject, problem in told.items() if problem}


def _cases(dataset_dir: str | os.PathLike) -> dict[str, Case]:
    root = Path(os.path.abspath(Path(dataset_dir).expanduser()))  # abspath keeps symbolic links as they are
    if not root.exists():
        raise FileNotFoundError(
            f"dataset_dir {root} does not exist; it must be the folder that holds the cases: correct the path"
        )
    if not root.is_dir():
        raise NotADirectoryError(
            f"dataset_dir {root} is a file; it must be the folder that holds the cases: "
            "unpack it, or give the folder it lies in"
        )
    found = _find(root)
    if not found:
        raise FileNotFoundError(
            f"no case in dataset_dir {root}; looked for <case>/<case>_t1.nii.gz (BraTS 2018 to 2021) and "
            "<case>/<case>-t1n.nii.gz (BraTS 2023 and on), both also one folder deeper, and for "
            "imagesTr/<case>.nii.gz (Decathlon Task01) and imagesTr/<case>_0000.nii.gz (nnU-Net): "
            + (_elsewhere(root) or "give the folder that holds the cases, named like this")
        )
    return found


def _find(root: Path) -> dict[str, Case]:
    return (task_folder_cases if (root / "imagesTr").is_dir() else folder_cases)(root)


def _elsewhere(root: Path) -> str:
    """Where the cases are instead, or nothing: above a folder that is a part of a data set, or in wrapping folders."""
    if root.name == "imagesTr" or case_in(root) is not None:
        return f"this folder is a part of the data set, give the one above it: --dataset_dir {root.parent}"
    folders, looked_into = [root], 0
    for level in range(1, _DEEPER + 1):
        folders = [inner for outer in folders for inner in _readable_folders(outer)][: _LOOKED_INTO - looked_into]
        looked_into += len(folders)
        found = {folder: count for folder in folders if (count := _count(folder))}
        if found:
            named = [f"{folder} ({count})" for folder, count in list(found.items())[:_NAMED_IN_ERROR]]
            deeper = "one level" if level == 1 else f"{level} levels"
            return (
                f"cases were found {deeper} deeper, in {' and in '.join(named)}: give --dataset_dir {next(iter(found))}"
                f"{', or another of these' if len(found) > 1 else ''}"
            )
    return ""


def _readable_folders(parent: Path) -> list[Path]:
    try:
        return visible_folders(parent)
    except OSError:
        return []


def _count(folder: Path) -> int:
    try:
        return len(_find(folder))
    except (ValueError, OSError):  # a search for a hint ends in no error of its own
        return 0


def _names(modalities: Sequence[str], labels: bool) -> tuple[str, ...]:
    """Names of the volumes that a case needs."""
    modalities = ensure_tuple(modalities)
    unknown = [name for name in modalities if name not in MODALITIES]
    if unknown or not modalities:
        raise ValueError(
            f"modalities {list(modalities)} must be some of {', '.join(MODALITIES)}, at least one: "
            f"{'correct ' + ', '.join(map(repr, unknown)) if unknown else 'name one'} "
            "(these names hold for every year's data, whatever its files are called)"
        )
    return (*modalities, "seg") if labels else modalities


def _require(cases: Mapping[str, Case], names: Sequence[str]) -> None:
    """Check that each case has one file of each of ``names``."""
    contradictory = {subject: told for subject, case in cases.items() if (told := case.contradictions(names))}
    if contradictory:
        raise ValueError(
            f"{len(contradictory)} of {len(cases)} cases contradict themselves: {_listed(contradictory)}. Correct "
            "these cases, move them elsewhere, or let python -m idm_bundle prepare write a datalist without them"
        )
    incomplete = {subject: told for subject, case in cases.items() if (told := case.missing(names))}
    if incomplete:
        raise FileNotFoundError(
            f"{len(incomplete)} of {len(cases)} cases are incomplete: {_listed(incomplete)}. Every case needs "
            f"{', '.join(names)}: complete these cases, move them elsewhere, ask for what all cases have, or let "
            "python -m idm_bundle prepare write a datalist without them"
        )


def _listed(problems: Mapping[str, str]) -> str:
    told = [f"{subject} {problem}" for subject, problem in sorted(problems.items())[:_NAMED_IN_ERROR]]
    more = f"; and {len(problems) - len(told)} more" if len(problems) > len(told) else ""
    return "; ".join(told) + more
