"""Finds the cases of a BraTS data set on disk, whatever year's layout it has.

Layouts (endings ``.nii`` and ``.nii.gz``, upper or lower case; names that start with a dot are passed over)::

    BraTS 2018 to 2021   <case>/<case>_{t1,t1ce,t2,flair,seg}.nii.gz   also one folder deeper: HGG/<case>
    BraTS 2023 and on    <case>/<case>-{t1n,t1c,t2w,t2f,seg}.nii.gz    also one folder deeper
    Decathlon Task01     imagesTr/<case>.nii.gz in 4D, labelsTr/<case>.nii.gz, dataset.json

The modalities are called ``t1, t1ce, t2, flair`` here, in every layout.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.utils import ensure_tuple

from monai_idm.data.contrasts import MODALITIES, NAMES, named_in_order

__all__ = ["brats_datalist", "incomplete_cases"]

_NIFTI = re.compile(r"(?P<stem>[^.].*)\.nii(\.gz)?", re.IGNORECASE)
_STEM = re.compile(r"(?P<case>.+)[_-](?P<name>[a-z0-9]+)", re.IGNORECASE)
_Volumes = dict[str, tuple[str, int | None]]  # of a case, by the name used here: path, and channel of a 4D file
_NAMED_IN_ERROR = 5  # cases: enough to see the pattern, few enough to read


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
        ValueError: If a modality is unknown, or two folders give the same subject.
    """
    names = _names(modalities, labels)
    cases = {subject: volumes for subject, volumes in _cases(dataset_dir).items() if subject not in exclude}
    _require(cases, names)
    items = []
    for subject, volumes in sorted(cases.items()):
        paths, channels = zip(*(volumes[name] for name in names if name != "seg"), strict=True)
        item: dict[str, Any] = {"subject": subject, "image": list(paths)}
        if None not in channels:
            item["channels"] = list(channels)
        if labels:
            item["label"] = volumes["seg"][0]
        items.append(item)
    return items


def incomplete_cases(
    dataset_dir: str | os.PathLike, modalities: Sequence[str] = ("t1", "t2"), labels: bool = False
) -> dict[str, str]:
    """The subjects that lack a file, and what each lacks; arguments and errors as of :func:`brats_datalist`."""
    names = _names(modalities, labels)
    return {case: told for case, volumes in _cases(dataset_dir).items() if (told := _missing(volumes, names))}


def _cases(dataset_dir: str | os.PathLike) -> dict[str, _Volumes]:
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
    found = (_decathlon_cases if (root / "imagesTr").is_dir() else _folder_cases)(root)
    if not found:
        raise FileNotFoundError(
            f"no case in dataset_dir {root}; looked for <case>/<case>_t1.nii.gz (BraTS 2018 to 2021) and "
            "<case>/<case>-t1n.nii.gz (BraTS 2023 and on), both also one folder deeper, and for "
            "imagesTr/<case>.nii.gz (Decathlon Task01): give the folder that holds the cases, named like this"
        )
    return found


def _names(modalities: Sequence[str], labels: bool) -> tuple[str, ...]:
    """Of the volumes that a case needs."""
    modalities = ensure_tuple(modalities)
    unknown = [name for name in modalities if name not in MODALITIES]
    if unknown or not modalities:
        raise ValueError(
            f"modalities {list(modalities)} must be some of {', '.join(MODALITIES)}, at least one: "
            f"{'correct ' + ', '.join(map(repr, unknown)) if unknown else 'name one'} "
            "(these names hold for every year's data, whatever its files are called)"
        )
    return (*modalities, "seg") if labels else modalities


def _missing(has: Collection[str], names: Sequence[str]) -> str:
    missing = ", ".join(name for name in names if name not in has)
    return f"lacks {missing} (has {', '.join(sorted(has))})" if missing else ""


def _require(cases: Mapping[str, Collection[str]], names: Sequence[str]) -> None:
    """Check that each case, given with the names of what it has, has all of ``names``."""
    incomplete = sorted(case for case, has in cases.items() if _missing(has, names))
    if not incomplete:
        return
    told = [f"{case} {_missing(cases[case], names)}" for case in incomplete[:_NAMED_IN_ERROR]]
    more = f"; and {len(incomplete) - len(told)} more" if len(incomplete) > len(told) else ""
    raise FileNotFoundError(
        f"{len(incomplete)} of {len(cases)} cases are incomplete: {'; '.join(told)}{more}. Every case needs "
        f"{', '.join(names)}: complete these cases, move them elsewhere, ask for what all cases have, or let "
        "python -m idm_bundle prepare write a datalist without them"
    )


def _folder_cases(root: Path) -> dict[str, _Volumes]:
    folders: dict[str, Path] = {}
    volumes: dict[str, _Volumes] = {}
    for folder in _folders(root):
        found = _volumes(folder)
        if not found:
            continue
        if folder.name in folders:
            raise ValueError(
                f"two folders give the subject {folder.name}: {folders[folder.name]} and {folder}; "
                "a subject must come once: rename or remove one of them"
            )
        folders[folder.name], volumes[folder.name] = folder, found
    return volumes


def _folders(root: Path) -> Iterator[Path]:
    """The visible folders in ``root`` and in these."""
    for outer in _visible_folders(root):
        yield outer
        yield from _visible_folders(outer)


def _visible_folders(parent: Path) -> list[Path]:
    return [path for path in sorted(parent.iterdir()) if path.is_dir() and not path.name.startswith(".")]


def _volumes(folder: Path) -> _Volumes:
    """Each volume that is named after its folder."""
    found: _Volumes = {}
    for stem, path in _nifti_files(folder).items():
        parts = _STEM.fullmatch(stem)
        if parts and parts["case"].lower() == folder.name.lower() and parts["name"].lower() in NAMES:
            found[NAMES[parts["name"].lower()]] = path, None
    return found


def _nifti_files(folder: Path) -> dict[str, str]:
    """Path of each visible NIfTI file by its name without ending; of ``.nii`` and ``.nii.gz``, the latter."""
    if not folder.is_dir():
        return {}
    matches = ((path, _NIFTI.fullmatch(path.name)) for path in sorted(folder.iterdir()))
    return {match["stem"]: str(path) for path, match in matches if match and path.is_file()}


def _decathlon_cases(root: Path) -> dict[str, _Volumes]:
    images = _nifti_files(root / "imagesTr")
    if not images:
        return {}
    order = _decathlon_order(root / "dataset.json")
    segmentations = _nifti_files(root / "labelsTr")
    cases: dict[str, _Volumes] = {
        case: {name: (path, channel) for channel, name in enumerate(order)} for case, path in images.items()
    }
    for case, path in segmentations.items():
        if case in cases:
            cases[case]["seg"] = path, None
    return cases


def _decathlon_order(file: Path) -> tuple[str, ...]:
    if not file.is_file():
        raise FileNotFoundError(
            f"{file} is missing; it says which channel of the 4D files is which modality: "
            "restore it from the Decathlon's archive"
        )
    try:
        return named_in_order(json.loads(file.read_text(encoding="utf-8"))["modality"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{file} does not give the channels' order ({type(error).__name__}: {error}); it must hold "
            '"modality": {"0": "FLAIR", "1": "T1w", ...}: restore it from the Decathlon\'s archive'
        ) from error
