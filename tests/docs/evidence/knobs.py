"""The figures of KNOBS.md."""

from __future__ import annotations

from monai_idm.networks.plan import SHARES
from tests.docs.evidence.kinds import Evidence
from tests.docs.evidence.repeated import ON_HOST, OURS_BASE, OURS_LIGHT, OURS_PAPER

TEXT: list[Evidence] = [
    ("3M", OURS_LIGHT),
    ("24M", OURS_BASE),
    ("344M", OURS_PAPER),
    ("6 GB", "cards that whole volumes are meant for"),
    ("70 %", 100 * SHARES["cuda"]),
    ("50 %", 100 * SHARES["cpu"]),
    ("92 %", 100 * ON_HOST),
]
