"""The names of contrasts: what files and ``dataset.json`` call them, and what they are called here."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path

__all__ = ["MODALITIES", "NAMES", "contrast_of", "named_in_order", "require_contrast", "stated_order"]

MODALITIES = ("t1", "t1ce", "t2", "flair")

# what files and dataset.json call a volume, in lower case -> what it is called here
NAMES = {
    **{"t1": "t1", "t1n": "t1", "t1w": "t1"},
    **{"t1ce": "t1ce", "t1c": "t1ce", "t1gd": "t1ce"},
    **{"t2": "t2", "t2w": "t2"},
    **{"flair": "flair", "t2f": "flair"},
    "seg": "seg",
}
_LAST_WORD = re.compile(r"(?:.*[_-])?(?P<name>[a-z0-9]+)\.nii(\.gz)?", re.IGNORECASE)
_DECATHLON_FILE = re.compile(r"BRATS_\d+\.nii(\.gz)?", re.IGNORECASE)
_DECATHLON_ORDER = ("flair", "t1", "t1ce", "t2")


def contrast_of(path: str | os.PathLike[str]) -> str | None:
    """The contrast that a file's name ends with, as ``case_t1n.nii.gz`` does; None where it names none."""
    match = _LAST_WORD.fullmatch(Path(path).name)
    return NAMES.get(match["name"].lower()) if match else None


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

    That is a ``dataset.json`` beside the file or in the folder above, with the Decathlon's ``modality``; or a file name
    of the Decathlon's, whose order is known.

    Returns:
        Names used here where they are known, and else as written; None if nothing says the order.
    """
    for folder in Path(path).absolute().parents[:2]:
        try:
            modality = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))["modality"]
            return named_in_order(modality)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
    return _DECATHLON_ORDER if _DECATHLON_FILE.fullmatch(Path(path).name) else None


def named_in_order(modality: dict[str, str]) -> tuple[str, ...]:
    """``{"0": "FLAIR", "1": "T1w", ...}`` as the names used here, or as they are where those are unknown."""
    given: Sequence[str] = [modality[str(i)] for i in range(len(modality))]
    return tuple(NAMES.get(name.lower(), name) for name in given)
