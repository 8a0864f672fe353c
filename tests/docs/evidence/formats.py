"""Units, and scores of studies, as the pages show them."""

from __future__ import annotations

from typing import Any


def million(number: float, digits: int = 1) -> str:
    return f"{number / 1e6:.{digits}f}M"


def mb(mib: float) -> str:
    return f"{mib * 2**20 / 1e6:.0f}"


def psnr(found: dict[str, float], method: str = "reconstruction") -> float:
    return found[f"{method}_psnr_brain"]


def ssim(found: dict[str, float], method: str = "reconstruction", region: str = "brain") -> float:
    return found[f"{method}_ssim_{region}"]


def reconstructed(found: dict[str, Any], method: str = "reconstruction") -> list[str]:
    """PSNR and SSIM in the brain from timesteps 250 and 500."""
    return [
        f"{found[t][f'{method}_{metric}_brain']:.{digits}f}"
        for t in ("t250", "t500")
        for metric, digits in (("psnr", 2), ("ssim", 3))
    ]
