"""Which patient a scan is of."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

__all__ = ["patient"]

_TIME_POINT = re.compile(r"(BraTS-\w+-\d+)-\d{3}", re.IGNORECASE)  # BraTS-GLI-00000-001: patient 00000, scan 001


def patient(item: Mapping[str, Any]) -> str:
    scan = _TIME_POINT.fullmatch(item["subject"])
    return scan[1] if scan else item["subject"]
