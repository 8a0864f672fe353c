"""The figures of the bundle's README."""

from __future__ import annotations

from tests.docs.evidence.formats import psnr, ssim
from tests.docs.evidence.kinds import Evidence
from tests.docs.evidence.repeated import DEFAULT, DPM_20, OURS_LIGHT, PAPER, SETTING, SYNTHESIS, WHOLE
from tests.docs.evidence.results import gb

TEXT: list[Evidence] = [
    ("2e-4", SETTING),
    ("1.5e-3", SETTING),
    ("3M", OURS_LIGHT),
    ("6.9 GB", gb(PAPER, "paper")),
    ("1.7 GB", gb(PAPER, "paper, least memory")),
    ("2.8 GB", gb("volume_estimate", f"{WHOLE}, least memory")),
]

ROWS: dict[str, list[Evidence]] = {
    "250": [
        ("26.8", psnr(DEFAULT["t250"])),
        ("0.96", ssim(DEFAULT["t250"])),
        ("24.9", psnr(DEFAULT["t250"], "gaussian_blur")),
        ("0.94", ssim(DEFAULT["t250"], "gaussian_blur")),
    ],
    "500": [
        ("24.1", psnr(DPM_20)),
        ("0.93", ssim(DPM_20)),
        ("22.1", psnr(DPM_20, "gaussian_blur")),
        ("0.89", ssim(DPM_20, "gaussian_blur")),
    ],
    "T2": [
        ("24.5", SYNTHESIS["T1 to T2"]["t1"]["psnr_brain"]),
        ("0.96", SYNTHESIS["T1 to T2"]["t1"]["ssim_brain"]),
        ("17.6", SYNTHESIS["T1 to T2"]["t1"]["lookup_psnr_brain"]),
        ("0.69", SYNTHESIS["T1 to T2"]["t1"]["lookup_ssim_brain"]),
    ],
}
