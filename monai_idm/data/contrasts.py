"""Which contrast a file shows: what its name says, and the order of the channels in a 4D file."""

from __future__ import annotations

import os
import re
from pathlib import Path

from monai_idm.data.layouts.case import NIFTI
from monai_idm.data.layouts.task_folder import channel_order
from monai_idm.data.modalities import NAMES

__all__ = ["contrast_of", "require_contrast", "stated_order"]

_LAST_WORD = re.compile(r"(?:.*[_-])?(?P<name>[a-z0-9]+)", re.IGNORECASE)
_DECATHLON_CASE = re.compile(r"BRATS_\d+", re.IGNORECASE)
_DECATHLON_ORDER = ("flair", "t1", "t1ce", "t2")


def contrast_of(path: str | os.PathLike[str]) -> str | None:
    """The contrast that a file's name ends with, as ``case_t1n.nii.gz`` does; None where it names none."""
    word = _LAST_WORD.fullmatch(_stem(path))
    return NAMES.get(word["name"].lower()) if word else None


def require_contrast(path: str | os.PathLike[str], modality: str) -> None:
    """Refuse a file whose name says another contrast than the one it is given for.

    Raises:
        ValueError: If it does.
    """
    named = contrast_of(path)
    if named not in (None, modality):
        raise ValueError(
            f"{path} is given for {modality}, and its name says {named}; give the files in the order of the "
            "modalities, or rename it"
        )


def stated_order(path: str | os.PathLike[str]) -> tuple[str, ...] | None:
    """The contrasts of a 4D file in the order of its channels, where something says it.

    That is a ``dataset.json`` beside the file or in the folder above; or a file name of the Decathlon's, whose order is
    known.

    Returns:
        Names used here where they are known, and else as written; None if nothing says the order.
    """
    for folder in Path(path).absolute().parents[:2]:
        try:
            return tuple(channel_order(folder / "dataset.json"))
        except (OSError, ValueError):  # not there, or of something else
            continue
    return _DECATHLON_ORDER if _DECATHLON_CASE.fullmatch(_stem(path)) else None


def _stem(path: str | os.PathLike[str]) -> str:
    match = NIFTI.fullmatch(Path(path).name)
    return match["stem"] if match else ""
