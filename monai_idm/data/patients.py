"""Finds the patient of each scan: no patient may be in both training and evaluation data.

A datalist item can name its ``"patient"``; otherwise the patient is read from the subject's name, if its form is known.
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

# Forms of subject names whose first group is the patient. Forms that could merge two patients are left out: in
# BraTS20_Training_001, BRATS_001, IXI012 and TCGA-DU-7294 the whole name is the patient.
_SCANS = [
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"(BraTS-\w+(?:-RT)?-\d+)-\d+",  # BraTS 2023 on: BraTS-GLI-00000-001, BraTS-MEN-RT-0000-1
        r"(BraTS1[789]_(?:TCIA\d*|CBICA|TMC|2013)_\w+)_\d+",  # BraTS 2017 to 2019: Brats18_TCIA01_231_1
        r"(brats_(?:tcia|2013)_pat\d+)_\d+",  # BraTS 2015: brats_tcia_pat170_0002
        r"(UPENN-GBM-\d+)_\d+",  # before surgery _11, afterwards _21
        r"(UCSF-PDGM-\d+)(?:_FU\d+\w?)?(?:_nifti)?",  # follow-up, in days: _FU016d
        r"(UCSD-PTGBM-\d+)_\d+",  # UCSD-PTGBM-0002_01
        r"(RHUH-\d+)_\d+",  # Rio Hortega: before surgery _0, afterwards _1, at recurrence _2
        r"(sub-[a-z0-9]+)(?:_[a-z]+-[a-z0-9]+)+",  # BIDS: sub-001_ses-01_run-2
        rf"(TCGA-\w\w-\w{{4}}|W\d+)[_-]{_DATE}",  # TCGA and Ivy GAP: TCGA-02-0003_1999.01.01, W39_1998.09.19
        r"(OAS\d_\d{4})_MR\d+",  # OASIS 1 and 2: OAS2_0001_MR2
        r"(OAS\d{5})_(?:\w+_)?d\d+",  # OASIS 3: OAS30001_MR_d0129
        r"(\d{3}_S_\d{4})[_-].+",  # ADNI: 002_S_0295_m12
        # by a word for the time point, after a part with a number: LUMIERE's Patient-001_week-000-1, MU-Glioma-Post's
        # PatientID_0003_Timepoint_1, UCSF-ALPTDG's 100001_time1
        rf"(.*\d.*?)[_-]{_TIME}[_-]?\d+[a-z]?(?:[_-]\d+)?",
        r"(.*\d.*?)[_-](?:pre|post|intra)-?op(?:erative)?(?:[_-]?\d+)?",
        r"(.*\d.*?)[_-](?:baseline|recurrence|fu|follow[_-]?up)",
    )
]
_MAX_LISTED = 5  # names in a message


def patient(item: Mapping[str, Any]) -> str:
    """The patient of a datalist item.

    Args:
        item: A datalist item with ``"subject"`` and, if known, ``"patient"``.
    """
    if "patient" in item:
        return str(item["patient"])
    subject = str(item["subject"])
    scan = next(filter(None, (form.fullmatch(subject) for form in _SCANS)), None)
    return scan[1] if scan else subject


def read_patients(file: str | os.PathLike[str]) -> dict[str, str]:
    """Read the patient of each subject from a table.

    Args:
        file: A CSV file with the columns ``subject`` and ``patient``.
    Raises:
        FileNotFoundError: If the file is missing.
        ValueError: If a column is missing, or a subject has no patient or several.
    """
    patients = read_column(file, ("subject", "patient"), "patients", "patients_file")
    if unknown := sorted(subject for subject, name in patients.items() if is_missing(name)):
        raise ValueError(
            f"patients_file {file} has no patient for {_listed(unknown)}; every subject must have one: if a patient "
            "has only one scan, repeat the subject's name"
        )
    return patients


def with_patients(
    items: Sequence[Mapping[str, Any]], file: str | os.PathLike[str] | None = None
) -> list[dict[str, Any]]:
    """The same items, each with its ``"patient"``.

    Args:
        items: Datalist items.
        file: See :func:`read_patients`; it takes precedence over the items and their names. None: only these are used.
    Raises:
        FileNotFoundError, ValueError: See :func:`read_patients`.
        ValueError: If the table lacks a subject.
    """
    if file is None:
        return [{**item, "patient": patient(item)} for item in items]
    table = read_patients(file)
    known = [look_up(item["subject"], table) for item in items]
    if lacking := sorted({item["subject"] for item, name in zip(items, known, strict=True) if name is None}):
        raise ValueError(
            f"patients_file {file} lacks {len(lacking)} of {len(items)} subjects: {_listed(lacking)}; it must name the "
            "patient of each subject: add the missing rows"
        )
    return [{**item, "patient": name} for item, name in zip(items, known, strict=True)]


def count_patients(items: Sequence[Mapping[str, Any]]) -> str:
    """Describe how many scans of how many patients there are, and which patients have several."""
    by_subject = {item["subject"]: patient(item) for item in items}
    scans = Counter(by_subject.values())
    several = [f"{name} ({times})" for name, times in sorted(scans.items()) if times > 1]
    counts = f"{_counted(len(by_subject), 'scan')} of {_counted(len(scans), 'patient')}"
    return f"{counts}; with several scans: {_listed(several)}" if several else counts


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MAX_LISTED} more" if len(names) > _MAX_LISTED else ""
    return ", ".join(names[:_MAX_LISTED]) + more
