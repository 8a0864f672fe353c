"""BraTS's own layout: a folder for each case, whose files are named after it: ``<case>/<case>_t1.nii.gz``."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from monai_idm.data.layouts.case import Case, nifti_files, visible_folders
from monai_idm.data.modalities import MODALITY_NAMES

__all__ = ["case_in", "folder_cases"]

_STEM = re.compile(r"(?P<case>.+)[_-](?P<name>[a-z0-9]+)", re.IGNORECASE)


def folder_cases(root: Path, label_name: str = "seg") -> dict[str, Case]:
    """The cases whose folders are in ``root``, or in one of its folders.

    Args:
        root: An existing folder.
        label_name: Last part of the names of labels.
    Raises:
        ValueError: If two folders have the same subject.
    """
    folders: dict[str, Path] = {}
    cases: dict[str, Case] = {}
    for folder in _folders(root):
        case = case_in(folder, label_name)
        if case is None:
            continue
        if folder.name in folders:
            raise ValueError(
                f"two folders give the subject {folder.name}: {folders[folder.name]} and {folder}; "
                "a subject must come once: rename or remove one of them"
            )
        folders[folder.name], cases[folder.name] = folder, case
    return cases


def case_in(folder: Path, label_name: str = "seg") -> Case | None:
    """The case that a folder holds, or None if no volume is named after the folder."""
    names = {**MODALITY_NAMES, label_name.lower(): "seg"}
    case, wrapped, others = Case(), [], []
    for stem, path in nifti_files(folder):
        parts = _STEM.fullmatch(stem)
        name = names.get(parts["name"].lower()) if parts and _same_name(parts["case"], folder.name) else None
        if path.is_dir():
            if name is not None and name not in wrapped:
                wrapped.append(name)
                case.remarks.append(f"{path.name} is a folder, but must be the file: {_unwrapping(path)}")
        elif path.is_file() and name is not None:
            case.add(name, path)
        elif path.is_file():
            others.append(
                f"{path.name} has another name: if it is the missing file, rename it to "
                f"{folder.name}_<volume>{path.name[len(stem) :]}"
            )
    case.remarks += others
    return case if case.volumes or wrapped else None


def _folders(root: Path) -> Iterator[Path]:
    """The visible folders in ``root``, each followed by those inside it."""
    for outer in visible_folders(root):
        yield outer
        yield from visible_folders(outer)


def _same_name(one: str, other: str) -> bool:
    """Whether two names are equal, apart from case and the encoding of accents."""
    first, second = (unicodedata.normalize("NFC", name).casefold() for name in (one, other))
    return first == second


def _unwrapping(folder: Path) -> str:
    """What to do with a folder that is named like a file."""
    files = [path.name for _, path in nifti_files(folder) if path.is_file()]
    if len(files) == 1:
        return f"move {folder.name}/{files[0]} out of it, and give it the folder's place and name"
    return "unpack the data again"
