"""The figures of EVALUATION.md."""

from __future__ import annotations

import math

from tests.docs.evidence.kinds import Evidence
from tests.docs.evidence.repeated import SETTING


def error_bound(mae: float) -> float:
    """The highest PSNR, in dB, that images in [0, 1] with this mean absolute error can have."""
    return -20 * math.log10(mae)


TEXT: list[Evidence] = [  # 0.4090 and 0.3349: the paper, table 1
    ("0.5", SETTING),
    ("99.5", SETTING),
    ("95 %", "of an interval"),
    ("0.409", 0.4090),
    ("0.335", 0.3349),
    ("7.8", error_bound(0.4090)),
    ("9.5 dB", error_bound(0.3349)),
]

ROWS: dict[str, list[Evidence]] = {  # the paper's table 1
    "IDM": [("25.01", 25.01), ("0.485", 0.4852), ("25.54", 25.54), ("0.488", 0.4879)],
    "AGGrGAN": [("22.12", 22.12), ("0.77", 0.77), ("21.94", 21.94), ("0.80", 0.8)],
    "CycleGAN": [("34.24", 34.244), ("0.983", 0.983)],
    "MT-Net": [("22.19", 22.193), ("0.906", 0.906), ("22.03", 22.028), ("0.903", 0.903)],
}
