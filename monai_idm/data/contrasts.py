"""Identifies the contrast of a file by its name, and the order of the channels in a 4D file."""

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
    """The contrast that a file's name ends with, as in ``case_t1n.nii.gz``; None if it ends with none."""
    word = _LAST_WORD.fullmatch(_stem(path))
    return NAMES.get(word["name"].lower()) if word else None


def require_contrast(path: str | os.PathLike[str], modality: str) -> None:
    """Check that a file's name does not state a different contrast than the one it is given for.

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
    """The contrasts of a 4D file in the order of its channels, if that order is known.

    It is read from a ``dataset.json`` next to the file or in the folder above; without one, a file that is named like a
    case of the Decathlon has the Decathlon's order.

    Returns:
        The names used here, or as written where the contrast is unknown; None if the order is unknown.
    """
    for folder in Path(path).absolute().parents[:2]:
        try:
            return tuple(channel_order(folder / "dataset.json"))
        except (OSError, ValueError):  # missing, or it describes something else
            continue
    return _DECATHLON_ORDER if _DECATHLON_CASE.fullmatch(_stem(path)) else None


def _stem(path: str | os.PathLike[str]) -> str:
    match = NIFTI.fullmatch(Path(path).name)
    return match["stem"] if match else ""
