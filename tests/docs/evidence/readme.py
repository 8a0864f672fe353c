"""The figures of the README."""

from __future__ import annotations

from tests.docs.evidence.kinds import Evidence
from tests.docs.evidence.repeated import (
    BRAIN,
    CARD,
    ON_HOST,
    OURS_BASE,
    OURS_LIGHT,
    OURS_PAPER,
    PAPER,
    WHOLE,
    WHOLE_BEFORE,
)
from tests.docs.evidence.results import gb

TEXT: list[Evidence] = [
    ("5.90 GB", BRAIN["card_bytes"] / 1e9),
    ("6 GB", BRAIN["limit_gb"]),
    ("1 GB", "by hand: the demo's peak of resident memory, 0.97 GiB in memory.csv"),
    ("3M", OURS_LIGHT),
    ("24M", OURS_BASE),
    ("4.3 GB", gb("volume_estimate", "base, 256 x 256 x 192, stride 1, least memory")),
    ("7 GiB", "an example"),
    ("92 %", 100 * ON_HOST),
]

ROWS: dict[str, list[Evidence]] = {
    "without the memory": [
        ("344M", OURS_PAPER),
        ("1.7 GB", gb(PAPER, "paper, least memory")),
        ("1.1 GB", gb(PAPER, "paper, all switches")),
        ("6.9 GB", gb(PAPER, "paper")),
    ],
    "256 × 256 × 192": [
        ("2.8 GB", gb("volume_estimate", f"{WHOLE}, least memory")),
        ("5.9 GB", BRAIN["card_bytes"] / 1e9),
        ("4.2 GB", WHOLE_BEFORE),
    ],
    "speed on a GPU": [("0.27", BRAIN["step_s"])],
    "`light`": [("3M", OURS_LIGHT)],
    "`base`": [
        ("24M", OURS_BASE),
        ("0.79 GB", gb(PAPER, "base")),
        ("0.41 GB", gb(PAPER, "base, least memory")),
        ("6.13 GB", gb(PAPER, "PatchDDM")),
    ],
    "`paper`": [
        ("344M", OURS_PAPER),
        ("6.88 GB", gb(PAPER, "paper")),
        ("1.73 GB", gb(PAPER, "paper, least memory")),
        ("6 GB", CARD),
    ],
}
