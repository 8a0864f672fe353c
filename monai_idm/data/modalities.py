"""The contrasts: what each is called here, in files, and by people."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["MODALITIES", "NAMES", "title_of"]


class Modality(NamedTuple):
    """What a contrast is called.

    Attributes:
        title: Name for people.
        names: What files and ``dataset.json`` call it, in lower case.
    """

    title: str
    names: tuple[str, ...]


MODALITIES = {
    "t1": Modality("T1", ("t1", "t1n", "t1w")),
    "t1ce": Modality("T1 with contrast agent", ("t1ce", "t1c", "t1gd")),
    "t2": Modality("T2", ("t2", "t2w")),
    "flair": Modality("FLAIR", ("flair", "t2f")),
}
NAMES = {name: modality for modality, (_, names) in MODALITIES.items() for name in names} | {"seg": "seg"}
"""Name in a file to name of the volume here, labels included."""


def title_of(modality: str) -> str:
    """The name of a contrast for people; a contrast that is not known here goes by its own."""
    return MODALITIES[modality].title if modality in MODALITIES else modality
