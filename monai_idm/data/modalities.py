"""Names of the MRI contrasts: in this package, in files and for display."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["MODALITIES", "MODALITY_NAMES", "NAMES", "title_of"]


class Modality(NamedTuple):
    """Names of a contrast.

    Attributes:
        title: Name for display.
        names: Names in files and in ``dataset.json``, in lower case.
    """

    title: str
    names: tuple[str, ...]


MODALITIES = {
    "t1": Modality("T1", ("t1", "t1n", "t1w")),
    "t1ce": Modality("T1 with contrast agent", ("t1ce", "t1c", "t1gd")),
    "t2": Modality("T2", ("t2", "t2w")),
    "flair": Modality("FLAIR", ("flair", "t2f")),
}
MODALITY_NAMES = {name: modality for modality, (_, names) in MODALITIES.items() for name in names}
"""Maps a name in files to the name of the contrast in this package."""
NAMES = MODALITY_NAMES | {"seg": "seg"}
"""The same, with labels."""


def title_of(modality: str) -> str:
    """Name of a contrast for display; an unknown contrast keeps its own name."""
    return MODALITIES[modality].title if modality in MODALITIES else modality
