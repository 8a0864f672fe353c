"""The figures of the notes on reversible operations."""

from __future__ import annotations

from tests.docs.evidence.kinds import Evidence

TEXT: list[Evidence] = [
    ("1e-9", "the bound of tests/reversible"),
    ("1e-5", "the bound of tests/reversible"),
    ("4e-4", "by hand: the rounding of TF32"),
]
