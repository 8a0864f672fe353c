"""Record the cases of a run with its weights: as hashes, so that no name travels with them.

A hash is PBKDF2 of the name with a salt of the run. It does not hide a name that somebody can guess, but it keeps names
out of files, and anyone who has a name can check whether it was among those of the run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

__all__ = ["Case", "TrainingSplit", "hashed_split"]

Case = tuple[str, str]  # subject and patient, who may have several scans
_ROUNDS = 1000  # half a millisecond per name


def hashed_split(split: Mapping[str, Sequence[Case]]) -> dict[str, Any]:
    """A split as plain types without names.

    Args:
        split: Cases by the name of their part, such as ``training``.
    Returns:
        ``{"salt": ..., part: {"subjects": [...], "patients": [...]}}``.
    """
    # made from the names, not at random: all processes, and a resumed run, must get the same salt
    names = repr(sorted((part, sorted(cases)) for part, cases in split.items()))
    salt = hashlib.sha256(names.encode()).hexdigest()[:16]
    return {"salt": salt} | {
        part: {"subjects": _hashes((s for s, _ in cases), salt), "patients": _hashes((p for _, p in cases), salt)}
        for part, cases in split.items()
    }


class TrainingSplit:
    """The cases of the run that wrote a record, and of the earlier runs whose weights it started from.

    Args:
        splits: Splits in the form that :func:`hashed_split` returns, the last run's first.
    """

    def __init__(self, splits: Sequence[Mapping[str, Any]]) -> None:
        self.splits = splits

    @classmethod
    def of(cls, record: Mapping[str, Any] | None) -> TrainingSplit | None:
        """The cases in a record; None if it has none, such as a record of version 0.1.0."""
        record = record or {}
        return cls([record["split"], *record.get("earlier", [])]) if "split" in record else None

    def has(self, part: str, subject: str) -> bool:
        """Whether a subject was in a part of the last run's split."""
        return _hash(subject, self.splits[0]["salt"]) in self.splits[0].get(part, {}).get("subjects", ())

    def trained_on(self, case: Case) -> bool:
        """Whether the last run or an earlier one trained on this subject, or on another scan of the patient."""
        subject, patient = case
        return any(
            _hash(subject, split["salt"]) in split["training"]["subjects"]
            or _hash(patient, split["salt"]) in split["training"]["patients"]
            for split in self.splits
        )

    def differs_from(self, split: Mapping[str, Sequence[Case]]) -> list[str]:
        """The parts in which the last run had other cases than a split with names."""
        last = self.splits[0]
        return [
            part
            for part, cases in split.items()
            if _hashes((subject for subject, _ in cases), last["salt"]) != last.get(part, {}).get("subjects", [])
        ]


def _hashes(names: Iterable[str], salt: str) -> list[str]:
    return sorted({_hash(name, salt) for name in names})


@cache
def _hash(name: str, salt: str) -> str:
    return hashlib.pbkdf2_hmac("sha256", name.encode(), salt.encode(), _ROUNDS).hex()[:24]
