"""Name the files of a case: one stem for its volumes, settings and pictures."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

__all__ = ["UniqueStems", "file_stem"]

_MAX_BYTES = 180  # file systems allow 255; suffixes, and what atomic_file adds, need the rest
_RESERVED = {"CON", "PRN", "AUX", "NUL", *(f"{port}{n}" for port in ("COM", "LPT") for n in "0123456789¹²³")}


def file_stem(subject: object) -> str:
    """The beginning of the names of all files of a case.

    Letters, digits and combining marks of every script are kept, and so are ``.``, ``_`` and ``-`` (but no leading
    dot); every other character becomes ``_``. Accents are normalised (NFC). Names that Windows reserves for devices,
    such as ``NUL``, get a leading ``_``.

    Args:
        subject: Name of the case.
    Raises:
        ValueError: If nothing is left, or more than 180 bytes.
    """
    name = unicodedata.normalize("NFC", str(subject))
    stem = "".join(c if c in "._-" or unicodedata.category(c)[0] in "LMN" else "_" for c in name).lstrip(".")
    if not stem:
        raise ValueError(
            f"the subject {subject!r} gives no file name; it must contain more than dots: rename the case, or correct "
            "its name in the datalist"
        )
    if stem.partition(".")[0].upper() in _RESERVED:
        stem = f"_{stem}"
    if (size := len(stem.encode())) > _MAX_BYTES:
        raise ValueError(
            f"the subject {stem[:20]}...{stem[-20:]} has {size} bytes; file names must have at most {_MAX_BYTES}, "
            "not counting suffixes: rename the case, or shorten its name in the datalist"
        )
    return stem


class UniqueStems:
    """Return the stem of each subject, and refuse one that another subject has, even if they differ in case only.

    The file systems of macOS and Windows treat such names as one file.
    """

    def __init__(self) -> None:
        self._subjects: dict[str, str] = {}

    def __call__(self, subject: object) -> str:
        """The subject's :func:`file_stem`.

        Args:
            subject: Name of a case; the same name may be passed again.
        Raises:
            ValueError: As for :func:`file_stem`, and if another subject has the stem.
        """
        stem, subject = file_stem(subject), str(subject)
        folded = unicodedata.normalize("NFC", stem.casefold())
        other = self._subjects.setdefault(folded, subject)
        if other != subject:
            raise ValueError(
                f"the subjects {_spelled(other)} and {_spelled(subject)} would share the file name {stem}; one would "
                "replace the other's files: rename one of them"
            )
        return stem

    def require(self, subjects: Iterable[object]) -> None:
        """Check that each subject has its own stem.

        Args:
            subjects: Names of cases.
        Raises:
            ValueError: As when called.
        """
        for subject in subjects:
            self(subject)


def _spelled(name: str) -> str:
    """A name in quotes, with its code points if it is not ASCII: different characters may look alike."""
    return repr(name) if name.isascii() else f"{name!r} ({name!a})"
