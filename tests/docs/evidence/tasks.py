"""The figures of TASKS.md."""

from __future__ import annotations

from tests.docs.evidence.kinds import Evidence

TEXT: list[Evidence] = [
    ("25 MB", "a limit of the Model Zoo"),
]
