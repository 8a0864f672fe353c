"""The figures of RELIABILITY.md."""

from __future__ import annotations

from tests.docs.evidence.kinds import Evidence
from tests.docs.evidence.results import study

KILLS = study("kills")
SOAK = study("soak")["train.yaml"]

TEXT: list[Evidence] = [
    ("30", KILLS["AdamW"]["kills"]),
    ("580", KILLS["AdamW"]["compared"]),
    ("590", KILLS["native.yaml: AdamW in backward, 8-bit states, bfloat16 weights"]["compared"]),
    ("555", SOAK["mb"][1]),
    ("554", SOAK["mb"][2]),
    ("542", SOAK["mb"][3]),
    ("547 MB", SOAK["mb"][4]),
    ("2.9e-6", SOAK["errors"][0]),
    ("8.1e-6", SOAK["errors"][2]),
    ("6.9e-6", SOAK["errors"][4]),
    ("2.5e-5", SOAK["largest_error"]),
]
