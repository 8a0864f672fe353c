"""Whose scan a case is: scans of one patient must not be trained on and judged by.

A datalist's item says it as ``"patient"``; without that, the subject's name does, where it has a known form.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from monai_idm.data.table import is_missing, look_up, read_column

__all__ = ["count_patients", "patient", "read_patients", "with_patients"]

_TIME = r"(?:ses|session|time|time[_-]?point|tp|visit|week|month|day|fu|follow[_-]?up)"  # words for a time point
_DATE = r"(?:19|20)\d\d[._-]?\d\d[._-]?\d\d"

# Subjects of which only the first group is the patient. A name that might belong to two patients is in none of them:
# BraTS20_Training_001, BRATS_001, IXI012, TCGA-DU-7294 are patients.
_SCANS = [
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"(BraTS-\w+(?:-RT)?-\d+)-\d+",  # BraTS 2023 on: BraTS-GLI-00000-001, BraTS-MEN-RT-0000-1
        r"(BraTS1[789]_(?:TCIA\d*|CBICA|TMC|2013)_\w+)_\d+",  # BraTS 2017 to 2019: Brats18_TCIA01_231_1
        r"(brats_(?:tcia|2013)_pat\d+)_\d+",  # BraTS 2015: brats_tcia_pat170_0002
        r"(UPENN-GBM-\d+)_\d+",  # before surgery _11, afterwards _21
        r"(UCSF-PDGM-\d+)(?:_FU\d+\w?)?(?:_nifti)?",  # follow-up after days: _FU016d
        r"(UCSD-PTGBM-\d+)_\d+",  # UCSD-PTGBM-0002_01
        r"(RHUH-\d+)_\d+",  # Rio Hortega: before surgery _0, afterwards _1, at recurrence _2
        r"(sub-[a-z0-9]+)(?:_[a-z]+-[a-z0-9]+)+",  # BIDS: sub-001_ses-01_run-2
        rf"(TCGA-\w\w-\w{{4}}|W\d+)[_-]{_DATE}",  # TCGA and Ivy GAP: TCGA-02-0003_1999.01.01, W39_1998.09.19
        r"(OAS\d_\d{4})_MR\d+",  # OASIS 1 and 2: OAS2_0001_MR2
        r"(OAS\d{5})_(?:\w+_)?d\d+",  # OASIS 3: OAS30001_MR_d0129
        r"(\d{3}_S_\d{4})[_-].+",  # ADNI: 002_S_0295_m12
        # by word, behind something with a number: LUMIERE's Patient-001_week-000-1, MU-Glioma-Post's
        # PatientID_0003_Timepoint_1, UCSF-ALPTDG's 100001_time1
        rf"(.*\d.*?)[_-]{_TIME}[_-]?\d+[a-z]?(?:[_-]\d+)?",
        r"(.*\d.*?)[_-](?:pre|post|intra)-?op(?:erative)?(?:[_-]?\d+)?",
        r"(.*\d.*?)[_-](?:baseline|recurrence|fu|follow[_-]?up)",
    )
]
_NAMED = 5


def patient(item: Mapping[str, Any]) -> str:
    """The patient of a datalist's item.

    Args:
        item: With ``"subject"``, and ``"patient"`` where that is known.
    """
    if "patient" in item:
        return str(item["patient"])
    subject = str(item["subject"])
    scan = next(filter(None, (form.fullmatch(subject) for form in _SCANS)), None)
    return scan[1] if scan else subject


def read_patients(file: str | os.PathLike[str]) -> dict[str, str]:
    """The patient of each subject in a table.

    Args:
        file: A CSV file with the columns ``subject`` and ``patient``.
    Raises:
        FileNotFoundError: If the file is missing.
        ValueError: If a column is missing, a subject has no patient, or several.
    """
    found = read_column(file, ("subject", "patient"), "patients", "patients_file")
    if unknown := sorted(subject for subject, name in found.items() if is_missing(name)):
        raise ValueError(
            f"patients_file {file} gives no patient to {_some(unknown)}; every subject must have one: where a subject "
            "is a patient of its own, repeat its name"
        )
    return found


def with_patients(
    items: Sequence[Mapping[str, Any]], file: str | os.PathLike[str] | None = None
) -> list[dict[str, Any]]:
    """The same items, each with its ``"patient"``.

    Args:
        items: A datalist's items.
        file: As for :func:`read_patients`; it overrules what items and names say. None: these alone.
    Raises:
        FileNotFoundError, ValueError: As :func:`read_patients` says.
        ValueError: If the table lacks a subject.
    """
    if file is None:
        return [{**item, "patient": patient(item)} for item in items]
    table = read_patients(file)
    known = [look_up(item["subject"], table) for item in items]
    if lacking := sorted({item["subject"] for item, name in zip(items, known, strict=True) if name is None}):
        raise ValueError(
            f"patients_file {file} lacks {len(lacking)} of {len(items)} subjects: {_some(lacking)}; it must say of "
            "each whose scan it is: add their lines"
        )
    return [{**item, "patient": name} for item, name in zip(items, known, strict=True)]


def count_patients(items: Sequence[Mapping[str, Any]]) -> str:
    """How many scans of how many patients these are, and who has several, in words."""
    by_subject = {item["subject"]: patient(item) for item in items}
    scans = Counter(by_subject.values())
    several = [f"{name} ({times})" for name, times in sorted(scans.items()) if times > 1]
    told = f"{_number(len(by_subject), 'scan')} of {_number(len(scans), 'patient')}"
    return f"{told}; with several scans: {_some(several)}" if several else told


def _number(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
